"""Comparisons without a model: what each method gets, what one's failure does, what is written."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from elder.errors import ConfigError, ElderError, GateError
from elder.pipelines.config.comparison import CompareConfig, load_compare_config, parse_compare_config
from elder.pipelines.config.files import packaged_configs
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.suite.comparison_driver import run_compare
from elder.pipelines.suite.comparison_result import right_after, score
from elder.pipelines.suite.driver import SuiteIO, SuiteOutcome
from elder.pipelines.suite.members import MemberResult, outcome_error
from tests.pipelines.fakes import FakeEditor, FakeKit, Mishap, RecordingTracker, StoreAt, leave_out_plots, make_edits


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is tested elsewhere."""
    leave_out_plots(monkeypatch)


@dataclass(frozen=True)
class MethodKit(FakeKit):
    """Mishaps of one method only; every load of the base and every edit leaves a line."""

    victim: str = ""
    log: str = ""

    def base(self, job: RunSpec, runtime: Any) -> Any:
        with Path(self.log).open("a") as file:
            file.write("base\n")
        return super().base(job, runtime)

    def editor(self, job: RunSpec, base: Any) -> Any:
        with Path(self.log).open("a") as file:
            file.write(f"{job.config.run_id}\n")
        mishaps = self.mishaps if job.config.editor.method == self.victim else ()
        return FakeEditor(base, job.config.stream.batch_size, job.config.seed, mishaps)


class Tracked(RecordingTracker):
    """Remembers parents, in a list that all trackers of a test share."""

    def __init__(self, book: list[tuple[str, str | None]]) -> None:
        super().__init__()
        self.book = book

    def start(self, run_id: str, name: str, config: Any, tags: Any, parent: str | None = None) -> str:
        self.book.append((run_id, parent))
        return super().start(run_id, name, config, tags, parent)


def make_compare(methods: Mapping[str, Any] | None = None, **sections: Any) -> CompareConfig:
    values: dict[str, Any] = {
        "name": "test",
        "run_id": "c1",
        "data": {"edits": 8},
        "stream": {"stage_size": 4, "batch_size": 2},
        "editor": {"method": "elder", "steps": 7},
        "evaluation": {"protocols": ["generate"], "probes": 0},
        "cluster": {"workers": 0},
        "tracking": {"mlflow": "unused.db", "register": "name", "retry_timeout_s": 0},
        "compare": {"methods": methods or {"elder": {}, "elder-plus": {"steps": 3}}},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return parse_compare_config(json.dumps(values), "c.yaml")


def compare(root: Path, config: CompareConfig | None = None, *, book: Any = None, **kit: Any) -> SuiteOutcome:
    made = MethodKit(log=str(root / "log"), **kit)
    outside = SuiteIO(
        StoreAt(str(root / "store")), lambda: Tracked([] if book is None else book), out=root / "out",
        edits=lambda run: make_edits(run.data.edits or 8), kit=made,
    )  # fmt: skip
    return run_compare(config or make_compare(), outside)


def test_every_method_is_an_ordinary_run_of_the_same_stream(tmp_path: Path) -> None:
    book: list[tuple[str, str | None]] = []
    found = compare(tmp_path, book=book)
    methods = found.result["methods"]
    assert list(methods) == ["elder", "elder-plus"]
    assert [one["run_id"] for one in methods.values()] == ["c1-elder", "c1-elder-plus"]
    assert all(len(one["stages"]) == 2 and one["final"]["reliability.generate"] == 1.0 for one in methods.values())
    assert dict(book) == {"c1": None, "c1-elder": "c1", "c1-elder-plus": "c1"}
    assert (tmp_path / "log").read_text().split().count("base") == 1
    assert outcome_error(found.ended) is None


def test_options_of_the_config_hold_for_its_own_method_only() -> None:
    config = make_compare({"elder": {}, "elder-plus": {}, "mine": {"method": "elder", "rank": 2}})
    options = {member.name: member.config.editor.options for member in config.members}
    assert options["elder"]["steps"] == 7
    assert options["mine"]["steps"] == 7
    assert options["mine"]["rank"] == 2
    assert options["elder-plus"]["steps"] == 50
    assert all(member.config.tracking.register_as is None for member in config.members)


@pytest.mark.parametrize(
    ("strategy", "stream"),
    [
        ("sequential-batched", ("stream", 4, 2)),
        ("sequential", ("stream", 4, 1)),
        ("batch", ("stream", 8, 8)),
        ("single", ("isolated", 4, 1)),
    ],
)
def test_strategies_change_the_stream_alone(strategy: str, stream: tuple[str, int, int]) -> None:
    for member in make_compare(compare={"methods": {"elder": {}}, "strategy": strategy}).members:
        found = member.config.stream
        assert (found.strategy, found.stage_size, found.batch_size) == stream


def test_one_method_that_fails_does_not_sink_the_other(tmp_path: Path) -> None:
    wrong = Mishap("refuse", 5, str(tmp_path / "marker"), once=False)
    found = compare(tmp_path, mishaps=(wrong,), victim="elder")
    assert found.result["status"] == {"elder": "failed", "elder-plus": "finished"}
    assert "will not" in found.result["failed"]["elder"]
    assert [stage["stage"] for stage in found.result["methods"]["elder"]["stages"]] == [0]
    assert len(found.result["methods"]["elder-plus"]["stages"]) == 2
    error = outcome_error(found.ended)
    assert isinstance(error, ElderError)
    assert not isinstance(error, GateError)
    with (tmp_path / "out" / "compare.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows["elder"]["status"] == "failed"
    assert rows["elder"]["edits"] == "4"
    assert float(rows["elder-plus"]["final.reliability.generate"]) == 1.0
    assert "will not" in (tmp_path / "out" / "report.md").read_text()


def test_an_unforeseen_error_of_one_method_is_its_own_too(tmp_path: Path) -> None:
    wrong = Mishap("raise", 1, str(tmp_path / "marker"), once=False)
    found = compare(tmp_path, mishaps=(wrong,), victim="elder-plus")
    assert found.result["status"] == {"elder": "finished", "elder-plus": "failed"}
    assert "ValueError" in found.result["failed"]["elder-plus"]


def test_the_same_command_again_goes_on_and_repeats_nothing(tmp_path: Path) -> None:
    wrong = Mishap("refuse", 5, str(tmp_path / "marker"), once=True)
    first = compare(tmp_path, mishaps=(wrong,), victim="elder-plus")
    assert first.result["status"]["elder-plus"] == "failed"
    (tmp_path / "log").unlink()
    kept = RunState(StoreAt(str(tmp_path / "store"))(), "c1-elder-plus").commits()[0].attempt
    again = compare(tmp_path)
    assert again.result["status"] == {"elder": "finished", "elder-plus": "finished"}
    assert (tmp_path / "log").read_text().split() == ["base", "c1-elder-plus"]
    commits = RunState(StoreAt(str(tmp_path / "store"))(), "c1-elder-plus").commits()
    assert commits[0].attempt == kept
    assert again.result["methods"]["elder"] == first.result["methods"]["elder"]
    undisturbed = compare(tmp_path / "b")
    digests = [stage["state_digest"] for stage in undisturbed.result["methods"]["elder-plus"]["stages"]]
    assert [commit.state_digest for commit in commits] == digests


def test_only_refusals_end_as_a_refusal(tmp_path: Path) -> None:
    # The fake says that no edit holds twice, so an impossible bound on perplexity refuses.
    found = compare(tmp_path, make_compare(gates={"perplexity": 2.0}))
    assert set(found.result["status"].values()) == {"refused"}
    assert isinstance(outcome_error(found.ended), GateError)
    mixed = {"a": MemberResult("refused", {}, "x"), "b": MemberResult("failed", {}, "y")}
    assert not isinstance(outcome_error(mixed), GateError)


def test_another_config_under_the_same_id_is_refused_before_anything_runs(tmp_path: Path) -> None:
    compare(tmp_path)
    (tmp_path / "log").unlink()
    with pytest.raises(ConfigError, match=r"editor\.steps: 3 -> 4"):
        compare(tmp_path, make_compare({"elder": {}, "elder-plus": {"steps": 4}}))
    assert not (tmp_path / "log").exists()


def test_mistakes_are_named_with_their_place() -> None:
    text = "compare:\n  methods:\n    elder: {}\n    memt: {}\n    elder-plus:\n      rnk: 3\n"
    with pytest.raises(ConfigError) as caught:
        parse_compare_config(text, "c.yaml")
    assert "c.yaml:4: compare.methods.memt" in str(caught.value)
    assert "memit" in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        parse_compare_config(text.replace("    memt: {}\n", ""), "c.yaml")
    assert "c.yaml:5: compare.methods.elder-plus.rnk" in str(caught.value)
    with pytest.raises(ConfigError, match="--methods"):
        parse_compare_config("name: x\n", "c.yaml")
    with pytest.raises(ConfigError, match=r"data\.edits"):
        parse_compare_config("compare: {methods: {elder: {}}, strategy: batch}\n", "c.yaml")


def test_an_edit_run_says_which_verb_such_a_config_wants() -> None:
    from elder.pipelines.config.run import parse_config

    with pytest.raises(ConfigError, match="elder compare"):
        parse_config("compare: {methods: {elder: {}}}\n")


def test_right_after_is_what_each_stage_said_of_its_own_edits(tmp_path: Path) -> None:
    compare(tmp_path)
    state = RunState(StoreAt(str(tmp_path / "store"))(), "c1-elder")
    rows = [row for commit in state.commits() for row in state.read_rows(commit) if row["stage"] == commit.stage]
    assert [row["edit"] for row in rows] == list(range(8))
    found = right_after(state)
    assert found["reliability.generate"] == 1.0
    assert "perplexity" not in found  # of the model as a whole, not of these edits
    assert score({"counterfact.ES": 1.0, "counterfact.PS": 0.5, "counterfact.NS": 0.5})["counterfact.S"] == 0.6
    assert score({"counterfact.ES": 1.0}) == {}


@pytest.mark.parametrize("name", [name for name in packaged_configs() if name.startswith("compare_")])
def test_every_shipped_comparison_loads(name: str) -> None:
    config = load_compare_config(name, ["run_id=c1"])
    assert len(config.members) > 1
    assert parse_compare_config(config.dump_yaml()).digest() == config.digest()


def test_a_dumped_comparison_is_the_same_comparison() -> None:
    config = make_compare({"elder": {}, "mine": {"method": "elder", "rank": 2}}, compare={"strategy": "single"})
    assert parse_compare_config(config.dump_yaml()).digest() == config.digest()
