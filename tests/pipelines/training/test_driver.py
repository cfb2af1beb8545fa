"""A training as a run: checkpoints, replay, other configs, rival drivers, gates, the record, the chosen checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from elder.edit import dataset_digest
from elder.errors import ConfigError, ElderError, RunTakenOver
from elder.pipelines.config.search import parse_tune_config
from elder.pipelines.run.commits import Commit, RunState
from elder.pipelines.run.driver import StageRefused
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.run.trained import TrainedPin, pin_trained, trained_directory
from elder.pipelines.search.driver import run_tune
from elder.pipelines.search.records import TuneState
from elder.pipelines.training.driver import run_training
from tests.pipelines.fakes import FakeKit, Mishap, RecordingTracker, StoreAt, make_config, make_edits
from tests.pipelines.train_fakes import FakeTrainingKit, facts_of, make_train_config
from tests.pipelines.tune_fakes import Inline, Stop

STEPS, CHECKPOINTS = 7, 3


def train(root: Path, kit: FakeTrainingKit | None = None, tracker: Any = None, **sections: Any) -> dict[str, Any]:
    config = make_train_config(root, **sections)
    return run_training(
        config,
        StoreAt(str(root / "store")),
        tracker or RecordingTracker(),
        data=facts_of(config),
        kit=kit or FakeTrainingKit(),
    )


def commits(root: Path) -> list[Commit]:
    return RunState(StoreAt(str(root / "store"))(), "train-1").commits()


def test_a_training_ends_with_a_trained_editor(tmp_path: Path) -> None:
    tracker = RecordingTracker()
    result = train(tmp_path, tracker=tracker, tracking={"register": "mine"})
    assert (result["kind"], result["method"], result["chosen"]) == ("training", "malmen", 2)
    assert [stage["edits"] for stage in result["stages"]] == [12, 12, 4]
    assert result["final"]["validation.ES"] == pytest.approx(0.7)
    assert result["final"]["validation.agreement"] == pytest.approx(4 / 5)  # two blocks of two, one of one
    assert result["final"]["editor.loss"] == pytest.approx(1 / 7)
    assert sorted(tracker.metrics) == [12, 24, 28]
    assert tracker.metrics[24]["validation.GS"] == pytest.approx(0.3)
    assert tracker.registered == [("mine", "candidate")]
    assert tracker.statuses == ["FINISHED"]
    assert {"report/report.html", "report/result.json"} <= tracker.artifacts
    rows = tracker.tables["edits/stage-0001.json"]
    assert [(row["block"], row["edits"]) for row in rows] == [(0, 2), (1, 2), (2, 1)]


def test_a_checkpoint_writes_no_tensor_twice(tmp_path: Path) -> None:
    result = train(tmp_path)
    place = Path(result["adapter"]["uri"])
    assert set(load_file(place / "adapter.safetensors")) == {"weights"}
    assert set(load_file(place / "continuation.safetensors")) == {"moment", "steps"}


@pytest.mark.parametrize("step", range(STEPS))
def test_a_training_that_broke_off_anywhere_ends_in_the_same_state(tmp_path: Path, step: int) -> None:
    train(tmp_path / "a")
    kit = FakeTrainingKit(mishaps=(Mishap("raise", step, str(tmp_path / "struck")),))
    with pytest.raises(ValueError, match="stumbled"):
        train(tmp_path / "b", kit)
    assert len(commits(tmp_path / "b")) == step // 3
    result = train(tmp_path / "b", kit)
    assert [c.state_digest for c in commits(tmp_path / "b")] == [c.state_digest for c in commits(tmp_path / "a")]
    assert len({c.attempt for c in commits(tmp_path / "b")}) == (1 if step < 3 else 2)  # nothing was done again
    assert [c.losses for c in commits(tmp_path / "b")] == [c.losses for c in commits(tmp_path / "a")]
    assert result["final"]["validation.ES"] == pytest.approx(0.7)


def test_another_config_or_other_facts_are_refused(tmp_path: Path) -> None:
    train(tmp_path)
    with pytest.raises(ConfigError, match=r"editor.meta_lr: 1e-05 -> 0.1"):
        train(tmp_path, editor={"meta_lr": 0.1})
    assert train(tmp_path, training={"steps": 7}, cluster={"max_failures": 9})["chosen"] == 2
    facts = tmp_path / "facts.jsonl"
    facts.write_text(facts.read_text().replace("shade 3", "shade x"), encoding="utf-8")
    with pytest.raises(ConfigError, match="other edits"):
        train(tmp_path)


def test_an_edit_run_does_not_take_a_training_s_id(tmp_path: Path) -> None:
    train(tmp_path)
    state = RunState(StoreAt(str(tmp_path / "store"))(), "train-1")
    with pytest.raises(ConfigError, match="elder train-editor"):
        state.open(make_config(run_id="train-1"), "digest", 3)


def test_an_older_driver_stops(tmp_path: Path) -> None:
    state = RunState(StoreAt(str(tmp_path / "store"))(), "train-1")
    config = make_train_config(tmp_path)
    told: list[int] = []

    def on_event(event: Any) -> None:
        if event["kind"] == "committed" and not told:
            told.append(state.drivers.take({"host": "elsewhere"}))

    with pytest.raises(RunTakenOver, match="elsewhere"):
        run_training(config, StoreAt(str(tmp_path / "store")), RecordingTracker(), on_event, data=facts_of(config),
                     kit=FakeTrainingKit())  # fmt: skip
    assert len(commits(tmp_path)) == 1


def test_a_gate_refuses_a_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(StageRefused, match=r"validation.ES = 0.1000 is below 0.4") as refused:
        train(tmp_path, FakeTrainingKit(scores=(0.5, 0.1, 0.9)), gates={"ES": 0.4})
    assert [stage["committed"] for stage in refused.value.result["stages"]] == [True, False]
    assert refused.value.result["chosen"] == 0


@pytest.mark.parametrize(("choose", "stage"), [("last", 2), ("best", 1)])
def test_the_chosen_checkpoint_is_the_trained_editor(tmp_path: Path, choose: str, stage: int) -> None:
    tracker = RecordingTracker()
    kit = FakeTrainingKit(scores=(0.5, 0.9, 0.7))
    result = train(tmp_path, kit, tracker, training={"choose": choose}, tracking={"register": "m"})
    assert result["chosen"] == stage
    assert result["adapter"]["digest"] == commits(tmp_path)[stage].state_digest
    edit = make_config(editor={"method": "elder"})
    object.__setattr__(edit.editor, "method", "malmen")
    object.__setattr__(edit.editor, "options", {"trained": "train-1"})
    pin = pin_trained(edit, StoreAt(str(tmp_path / "store"))())
    assert pin is not None
    assert (pin.run_id, pin.stage) == ("train-1", stage)


def test_a_loss_that_is_no_number_ends_the_training(tmp_path: Path) -> None:
    with pytest.raises(ElderError, match=r"nan after 2 steps of this checkpoint; lower editor.meta_lr"):
        train(tmp_path, FakeTrainingKit(nan_at=5))
    assert len(commits(tmp_path)) == 1


def test_randomness_outside_does_not_reach_a_training(tmp_path: Path) -> None:
    torch.manual_seed(1)
    train(tmp_path / "a")
    torch.manual_seed(2)
    train(tmp_path / "b")
    assert commits(tmp_path / "a")[-1].state_digest == commits(tmp_path / "b")[-1].state_digest
    train(tmp_path / "c", seed=1)
    assert commits(tmp_path / "c")[-1].state_digest != commits(tmp_path / "a")[-1].state_digest


def edit_config(trained: str, method: str = "malmen") -> Any:
    config = make_config()
    object.__setattr__(config.editor, "method", method)
    object.__setattr__(config.editor, "options", {"trained": trained})
    return config


def test_a_run_keeps_the_checkpoint_that_it_was_begun_with(tmp_path: Path) -> None:
    store = StoreAt(str(tmp_path / "store"))
    kit = FakeTrainingKit(mishaps=(Mishap("raise", 3, str(tmp_path / "struck")),))
    with pytest.raises(ValueError, match="stumbled"):
        train(tmp_path, kit)
    first = pin_trained(edit_config("train-1"), store())
    assert first is not None
    train(tmp_path, kit)  # the training goes on
    now = pin_trained(edit_config("train-1"), store())
    assert now is not None
    assert (first.stage, now.stage) == (0, 2)
    assert pin_trained(edit_config("train-1"), store(), first.to_dict()) == first


def test_a_directory_is_pinned_by_what_is_in_it(tmp_path: Path) -> None:
    store = StoreAt(str(tmp_path / "store"))
    place = train(tmp_path)["adapter"]["uri"]
    pin, by_id = pin_trained(edit_config(place), store()), pin_trained(edit_config("train-1"), store())
    assert pin is not None
    assert by_id is not None
    assert (pin.digest, pin.run_id) == (by_id.digest, None)
    state = RunState(store(), "edit-1")
    edits = make_edits(2)
    state.open(make_config(run_id="edit-1"), "d", len(edits), pin.to_dict())
    with pytest.raises(ConfigError, match="another trained editor"):
        state.open(make_config(run_id="edit-1"), "d", len(edits), TrainedPin("0" * 64).to_dict())


def test_what_is_no_trained_editor_is_said(tmp_path: Path) -> None:
    store = StoreAt(str(tmp_path / "store"))
    assert pin_trained(edit_config("none"), store()) is None
    assert pin_trained(make_config(), store()) is None
    with pytest.raises(ConfigError, match="elder train-editor CONFIG run_id=absent"):
        pin_trained(edit_config("absent"), store())
    place = train(tmp_path)["adapter"]["uri"]
    with pytest.raises(ConfigError, match="trained for malmen, not for mend"):
        pin_trained(edit_config(place, "mend"), store())
    with pytest.raises(ElderError, match="no readable manifest"):
        pin_trained(edit_config(str(tmp_path)), store())


def test_a_worker_fetches_the_pinned_checkpoint(tmp_path: Path) -> None:
    from dataclasses import replace

    store = StoreAt(str(tmp_path / "store"))
    train(tmp_path)
    config = edit_config("train-1")
    pin = pin_trained(config, store(), {"run_id": "train-1", "stage": 1})
    job = RunSpec(config, make_edits(2), store, trained=pin)
    with trained_directory(job.config, job.store_factory, job.trained) as directory:
        assert directory is not None
        assert sorted(path.name for path in directory.iterdir()) == ["adapter.safetensors", "manifest.json"]
        assert '"steps": 6' in (directory / "manifest.json").read_text()
    other = replace(job, trained=TrainedPin("0" * 64, "train-1", 1))
    with (
        pytest.raises(ElderError, match="the run was begun with 000000000000"),
        trained_directory(other.config, other.store_factory, other.trained),
    ):
        pass


def test_a_search_keeps_the_trained_editor_that_it_was_begun_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All its trials, also those after it broke off, whatever the training does in between."""
    from types import SimpleNamespace

    monkeypatch.setattr("elder.pipelines.run.stepping.gc", SimpleNamespace(collect=lambda: 0))
    kit = FakeTrainingKit(mishaps=(Mishap("raise", 3, str(tmp_path / "struck")),))
    with pytest.raises(ValueError, match="stumbled"):
        train(tmp_path, kit)
    config = parse_tune_config(
        """
run_id: s1
stream: {stage_size: 4, batch_size: 2}
editor: {method: malmen, trained: train-1}
evaluation: {protocols: [generate], probes: 0}
cluster: {workers: 1, sharding: none}
tracking: {mlflow: unused.db, retry_timeout_s: 0}
tune:
  {space: {editor.lr: {choice: [0.1, 0.2, 0.3]}}, searcher: grid, trials: 3, scheduler: none, objective: [reliability],
   finalists: 0}
""",
        "search.yaml",
    )
    store = StoreAt(str(tmp_path / "store"))
    seen: list[int | None] = []

    class SeeingKit(FakeKit):
        def editor(self, job: RunSpec, base: Any) -> Any:
            seen.append(job.trained.stage if job.trained else None)
            return super().editor(job, base)

    def search(runner: Inline) -> None:
        run_tune(config, store, RecordingTracker, edits=lambda run: make_edits(10), kit=SeeingKit(), runner=runner)

    with pytest.raises(Stop):
        search(Inline(stages_left=4))
    train(tmp_path, kit)  # the training goes on, and has a later checkpoint now
    search(Inline())
    records = [RunState(store(), f"s1-t{number:04d}").record() for number in range(3)]
    assert [record and record["trained"]["stage"] for record in records] == [0, 0, 0]
    assert set(seen) == {0}
    with pytest.raises(ConfigError, match="search 's1' was started with another trained editor"):
        TuneState(store(), "s1").open(config, dataset_digest(make_edits(10)), 10, TrainedPin("0" * 64).to_dict())
