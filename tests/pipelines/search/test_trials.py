"""The course of a search, without Ray: what is tried, recorded, repeated, resumed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elder.errors import ConfigError, ElderError, UnreachableError
from elder.pipelines.config.run import parse_config
from elder.pipelines.config.search import TuneConfig
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.run.commits import RunState
from elder.pipelines.search.driver import run_tune
from tests.pipelines.fakes import Mishap, RecordingTracker, StoreAt, leave_out_plots, make_edits
from tests.pipelines.tune_fakes import EDITS, Inline, Stop, TuneKit, make_search, score, search


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what costs seconds and is tested elsewhere: collecting garbage behind each run, drawing."""
    monkeypatch.setattr("elder.pipelines.run.stepping.gc", SimpleNamespace(collect=lambda: 0))
    leave_out_plots(monkeypatch)


def essence(result: dict[str, Any]) -> dict[str, Any]:
    """A result without what a clock says."""
    found = {key: value for key, value in result.items() if key != "timing"}
    found["trials"] = [{k: v for k, v in trial.items() if k != "seconds"} for trial in result["trials"]]
    found["trials"] = [{**t, "metrics": _steady(t["metrics"])} for t in found["trials"]]
    found["best"] = {**found["best"], "metrics": _steady(found["best"]["metrics"]), "config": ""}
    return found


def _steady(metrics: dict[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("time")}


def test_the_best_trial_wins_and_its_config_runs(tmp_path: Path) -> None:
    result = search(tmp_path, out=tmp_path / "out")
    objectives = {trial["trial"]: trial["objective"] for trial in result["trials"]}
    assert len(objectives) == 6
    assert all(trial["status"] == "finished" and trial["stages"] == 3 for trial in result["trials"])
    best = result["best"]
    assert objectives[best["trial"]] == max(objectives.values())
    written = (tmp_path / "out" / "best.yaml").read_text()
    config = parse_config(written)
    here = config.replace(cluster=config.cluster.replace(workers=0))
    assert {key: config.editor.options[key.partition(".")[2]] for key in best["parameters"]} == best["parameters"]
    assert config.run_id not in (best["run_id"], "s1")
    again = run_edit(here, StoreAt(str(tmp_path / "again")), RecordingTracker(), edits=make_edits(EDITS), kit=TuneKit())
    ours = RunState(StoreAt(str(tmp_path / "store"))(), best["run_id"]).commits()
    assert [stage["state_digest"] for stage in again["stages"]] == [commit.state_digest for commit in ours]
    assert again["final"]["reliability.generate"] == best["metrics"]["reliability.generate"]
    for name in ("report.md", "report.html", "records.jsonl", "plots/parallel.png", "plots/pareto.png"):
        assert (tmp_path / "out" / name).stat().st_size > 100
    assert (tmp_path / "store" / "tunes" / "s1" / "best.yaml").read_text() == written


def test_finalists_are_repeated_with_other_seeds(tmp_path: Path) -> None:
    result = search(tmp_path, make_search(finalists=2, seeds=3))
    first, second = result["finalists"]
    ranked = sorted((t["objective"] for t in result["trials"]), reverse=True)
    assert [first["objectives"][0], second["objectives"][0]] == ranked[:2]
    assert first["seeds"] == [0, 1, 2]
    assert first["runs"] == [f"s1-{first['trial']}", "s1-f01-s1", "s1-f01-s2"]
    assert first["mean"] == pytest.approx(sum(first["objectives"]) / 3)
    assert first["spread"] > 0
    commit = RunState(StoreAt(str(tmp_path / "store"))(), "s1-f01-s2").commits()[-1]
    config = parse_config((tmp_path / "store" / "runs" / "s1-f01-s2" / "config.yaml").read_text())
    assert config.seed == 2
    assert commit.metrics["reliability.generate"] == pytest.approx(score(config, 2))
    assert result["best"]["mean"] == max(first["mean"], second["mean"])
    none = search(tmp_path / "b", make_search(finalists=0))
    assert none["finalists"] == []
    assert none["best"]["mean"] == none["best"]["objective"]


@pytest.mark.parametrize("searcher", ["random", "tpe", "grid"])
@pytest.mark.parametrize("stages", [4, 17])
def test_a_search_that_broke_off_ends_with_the_same_best(tmp_path: Path, searcher: str, stages: int) -> None:
    space = {"editor.lr": {"choice": [1e-4, 1e-3, 1e-2]}, "editor.rank": {"choice": [4, 8]}}
    config = make_search(searcher=searcher, trials=8, **({"space": space} if searcher == "grid" else {}))
    whole = Inline()
    undisturbed = search(tmp_path / "a", config, runner=whole)
    with pytest.raises(Stop):
        search(tmp_path / "b", config, runner=Inline(stages_left=stages))
    done = len(list((tmp_path / "b" / "store" / "tunes" / "s1").glob("results/*.json")))
    rest = Inline()
    resumed = search(tmp_path / "b", config, runner=rest)
    assert essence(resumed) == essence(undisturbed)
    assert done == (stages // 3)
    assert rest.begun == whole.begun - done


def test_an_ended_search_answers_without_any_run(tmp_path: Path) -> None:
    first = search(tmp_path)
    runner = Inline()
    assert search(tmp_path, runner=runner) == first
    assert runner.begun == 0


def test_committed_stages_of_an_unfinished_trial_are_not_done_again(tmp_path: Path) -> None:
    with pytest.raises(Stop):
        search(tmp_path, runner=Inline(stages_left=1))
    before = RunState(StoreAt(str(tmp_path / "store"))(), "s1-t0000").commits()
    assert len(before) == 2
    search(tmp_path)
    after = RunState(StoreAt(str(tmp_path / "store"))(), "s1-t0000").commits()
    assert [c.attempt for c in after[:2]] == [c.attempt for c in before]


def test_another_config_under_the_same_id_is_refused(tmp_path: Path) -> None:
    search(tmp_path)
    with pytest.raises(ConfigError) as caught:
        search(tmp_path, make_search(trials=7, space={"editor.lr": {"choice": [1e-3]}}))
    text = str(caught.value)
    assert "tune.trials" not in text  # more trials need not be undone
    assert "tune.space" in text
    assert "exists with another config" in text
    assert search(tmp_path, make_search(concurrent=2, keep="all", cluster={"max_failures": 9}))["tune_id"] == "s1"


def test_an_ended_search_is_given_more_trials(tmp_path: Path) -> None:
    first, runner = search(tmp_path, _seeded(trials=3)), Inline()
    result = search(tmp_path, _seeded(trials=9), runner=runner)
    whole = search(tmp_path / "whole", _seeded(trials=9, finalists=0))
    assert [(t["trial"], t["objective"]) for t in result["trials"]] == [
        (t["trial"], t["objective"]) for t in whole["trials"]
    ]
    assert [one["trial"] for one in first["finalists"]] == ["t0001", "t0002"]
    assert [one["trial"] for one in result["finalists"]] == ["t0006", "t0001"]  # another first, the old first second
    assert result["finalists"][1]["runs"] == first["finalists"][0]["runs"]
    assert runner.begun == 6 + 1
    _check_finalists(result, tmp_path)
    again = Inline()
    assert search(tmp_path, _seeded(trials=9), runner=again) == result
    assert again.begun == 0
    written = (tmp_path / "store" / "tunes" / "s1" / "best.yaml").read_text()
    assert result["best"]["trial"] in written.splitlines()[0]


def test_fewer_trials_or_another_seed_are_refused(tmp_path: Path) -> None:
    search(tmp_path, make_search(trials=3))
    longer = search(tmp_path, make_search(trials=4))
    with pytest.raises(ConfigError, match=r"tune.trials: 4 -> 3 \(a search can be given more trials, not fewer\)"):
        search(tmp_path, make_search(trials=3))
    config = make_search(trials=5)
    with pytest.raises(ConfigError, match=r"(?s)exists with another config.*seed: 0 -> 1"):
        search(tmp_path, config.replace(run=config.run.replace(seed=1)))
    other = make_search(trials=5)
    with pytest.raises(ConfigError, match="other edits"):
        run_tune(other, StoreAt(str(tmp_path / "store")), RecordingTracker, edits=lambda run: make_edits(8),
                 kit=TuneKit(), runner=Inline())  # fmt: skip
    assert search(tmp_path, make_search(trials=4)) == longer  # nothing of what was refused is written


@pytest.mark.parametrize("stages", [10, 13])
def test_a_search_that_broke_off_while_it_repeated_is_given_more_trials(tmp_path: Path, stages: int) -> None:
    with pytest.raises(Stop):
        search(tmp_path, _seeded(trials=3), runner=Inline(stages_left=stages))
    result = search(tmp_path, _seeded(trials=9))
    assert len(result["trials"]) == 9
    _check_finalists(result, tmp_path)


def test_an_exhausted_grid_given_more_trials_ends_as_before(tmp_path: Path) -> None:
    space = {"editor.rank": {"choice": [4, 8]}}
    first = search(tmp_path, make_search(searcher="grid", trials=3, space=space))
    runner = Inline()
    result = search(tmp_path, make_search(searcher="grid", trials=5, space=space), runner=runner)
    assert runner.begun == 0
    assert {**essence(result), "config_digest": ""} == {**essence(first), "config_digest": ""}


def _seeded(**tune: Any) -> TuneConfig:
    """A search whose later trials overtake the first ones."""
    config = make_search(**tune)
    return config.replace(run=config.run.replace(seed=1))


def _check_finalists(result: dict[str, Any], root: Path) -> None:
    """Every repetition has tried what its trial tried, and none is counted twice."""
    runs = [run for one in result["finalists"] for run in one["runs"]]
    assert len(runs) == len(set(runs)) == 4
    for one in result["finalists"]:
        for run, value in zip(one["runs"], one["objectives"], strict=True):
            config = parse_config((root / "store" / "runs" / run / "config.yaml").read_text())
            assert {key: config.editor.options[key.partition(".")[2]] for key in one["parameters"]} == one["parameters"]
            held = score(config, 2), 0.99
            assert value == pytest.approx(2 * held[0] * held[1] / sum(held))


def test_a_trial_that_fails_is_recorded_and_the_search_goes_on(tmp_path: Path) -> None:
    kit = TuneKit(mishaps=(Mishap("refuse", 5, str(tmp_path / "struck")),))
    result = search(tmp_path, kit=kit)
    first, *others = result["trials"]
    assert (first["status"], first["objective"], first["stages"]) == ("failed", None, 1)
    assert "will not" in first["error"]
    assert all(trial["status"] == "finished" for trial in others)
    assert result["best"]["trial"] != "t0000"


def test_when_all_trials_fail_the_reasons_are_told(tmp_path: Path) -> None:
    kit = TuneKit(mishaps=(Mishap("raise", 5, "", once=False),))
    with pytest.raises(ElderError, match=r"(?s)no trial came to its end \(6 failed\).*t0000: ValueError: .*stumbled"):
        search(tmp_path, kit=kit)


def test_an_objective_that_is_not_measured_fails_the_trial(tmp_path: Path) -> None:
    with pytest.raises(ElderError, match="no trial came to its end"):
        search(tmp_path, make_search(objective=["edit.nothing"]))


def test_data_without_prompts_for_the_objective_are_refused_before_anything(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"generalization.generate, portability.generate cannot be measured"):
        search(tmp_path, make_search(objective=["reliability", "generalization", "portability"]))
    assert not (tmp_path / "store").exists()


def test_a_small_objective_can_be_wanted(tmp_path: Path) -> None:
    result = search(tmp_path, make_search(objective="perplexity", mode="min", finalists=0))
    assert result["best"]["trial"] == "t0000"  # all are equal: the first
    worst = search(tmp_path / "b", make_search(objective=["reliability"], mode="min", finalists=0))
    assert worst["best"]["objective"] == min(trial["objective"] for trial in worst["trials"])


@pytest.mark.parametrize(("keep", "left"), [("last", [2]), ("all", [0, 1, 2])])
def test_adapters_of_earlier_stages_are_deleted(tmp_path: Path, keep: str, left: list[int]) -> None:
    search(tmp_path, make_search(keep=keep))
    for run in sorted((tmp_path / "store" / "runs").iterdir()):
        kept = sorted(int(path.parts[-3]) for path in run.rglob("adapter.safetensors"))
        assert kept == left, run
        assert len(list(run.rglob("COMMIT.json"))) == 3
        assert len(list(run.rglob("results.jsonl"))) == 3


def test_a_grid_ends_with_its_last_combination(tmp_path: Path) -> None:
    space = {"editor.experts": {"choice": [2, 4]}, "editor.top_k": {"int": [1, 3]}}
    result = search(tmp_path, make_search(searcher="grid", trials=20, space=space, finalists=0))
    tried = [tuple(trial["parameters"].values()) for trial in result["trials"]]
    assert tried == [(2, 1), (2, 2), (4, 1), (4, 2), (4, 3)]  # three of two cannot be


def test_suggestions_say_what_was_known(tmp_path: Path) -> None:
    search(tmp_path)
    known = [
        json.loads(path.read_text())["known"]
        for path in sorted((tmp_path / "store" / "tunes" / "s1" / "trials").iterdir())
    ]
    assert known == [list(range(i)) for i in range(6)]


class _Forest:
    """Trackers of one search: what each was told."""

    def __init__(self, failing: int = 0) -> None:
        self.failing, self.starts, self.metrics, self.statuses = failing, [], {}, []
        self.given: list[tuple[str, Any, Any]] = []
        self.artifacts: set[str] = set()
        self.registered: list[tuple[str, str | None]] = []

    def __call__(self) -> Any:
        forest = self

        class Tree(RecordingTracker):
            def start(self, run_id: str, name: str, config: Any, tags: Any, parent: str | None = None) -> str:
                if parent is not None and forest.failing > 0:
                    forest.failing -= 1
                    raise UnreachableError("no answer")
                self.run = run_id
                forest.starts.append((run_id, parent, dict(tags)))
                forest.given.append((run_id, config, dict(tags)))
                return super().start(run_id, name, config, tags, parent)

            def log_metrics(self, values: Any, step: int) -> None:
                forest.metrics.setdefault(self.run, {}).setdefault(step, {}).update(values)

            def log_artifact(self, path: Path, folder: str = "") -> None:
                forest.artifacts.add(f"{folder}/{path.name}".lstrip("/"))

            def register(self, model_id: str, name: str, alias: str | None, tags: Any) -> int:
                forest.registered.append((self.run, alias))
                return super().register(model_id, name, alias, tags)

            def finish(self, status: str) -> None:
                forest.statuses.append((self.run, status))

        return Tree()


def test_the_tracker_has_one_run_for_the_search_and_one_below_it_for_each_trial(tmp_path: Path) -> None:
    forest = _Forest(failing=2)  # away for a while: the trials go on and are logged later
    result = search(tmp_path, tracker=forest)
    parents = {run: parent for run, parent, _ in forest.starts}
    assert parents.pop("s1") is None
    assert set(parents) == {f"s1-t{i:04d}" for i in range(6)} | {"s1-f01-s1", "s1-f02-s1"}
    assert set(parents.values()) == {"s1"}
    assert sorted(forest.metrics["s1-t0003"]) == [4, 8, 10]
    assert forest.metrics["s1-t0003"][8]["locality.generate"] == 0.99
    assert forest.metrics["s1"][6]["best.objective"] == result["best"]["objective"]
    tags = [tags for run, _, tags in forest.starts if run == "s1"][-1]
    assert tags["elder.best.trial"] == result["best"]["trial"]
    assert ("s1", "FINISHED") in forest.statuses
    assert {"best.yaml", "records.jsonl", "report.html", "plots/parallel.png"} <= forest.artifacts
    assert forest.registered == []


def test_the_tracker_knows_how_many_trials_a_search_has_now(tmp_path: Path) -> None:
    """A parameter keeps its first value for ever, so what may grow is a tag."""
    forest = _Forest()
    for trials in (2, 3):
        search(tmp_path, _seeded(trials=trials, finalists=0), tracker=forest)
    opened = [(config, tags) for run, config, tags in forest.given if run == "s1"]
    assert [tags["elder.trials"] for _, tags in opened if "elder.trials" in tags] == ["2", "3"]
    assert len(opened) == 4  # at the beginning and at the end of each
    assert all("trials" not in config["tune"] for config, _ in opened)
    assert all(config["tune"]["seeds"] == 2 and config["editor"]["method"] == "elder" for config, _ in opened)


def test_only_the_winner_is_registered(tmp_path: Path) -> None:
    config = make_search()
    tracking = config.run.tracking.replace(register_as="facts")
    config = config.replace(run=config.run.replace(tracking=tracking))
    forest = _Forest()
    result = search(tmp_path, config, tracker=forest)
    assert forest.registered == [(result["best"]["run_id"], "candidate")]
    assert result["registered"] == {"name": "facts", "version": 1}


def test_a_tracker_that_is_away_at_the_start_stops_the_search(tmp_path: Path) -> None:
    runner = Inline()
    with pytest.raises(UnreachableError):
        search(tmp_path, runner=runner, tracker=lambda: RecordingTracker({"start": 1}))
    assert runner.begun == 0
