"""run_edit in this process: the result, the record, interruption, refusal."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from elder.errors import ConfigError, ElderError, UnreachableError
from elder.infra.tracking.null import NullTracker
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.planning.sharding import decide_sharding, worker_memory
from elder.pipelines.run import retry as patience
from elder.pipelines.run.commits import Commit, RunState
from elder.pipelines.run.driver import StageRefused
from elder.pipelines.run.inputs import read_text
from elder.pipelines.run.local_runner import run_locally
from elder.pipelines.run.spec import RunSpec, WorkersFailed
from tests.pipelines.fakes import FakeKit, Mishap, RecordingTracker, StoreAt, make_config, make_edits

FIELDS = {
    "run_id", "config_digest", "base_model", "stages", "final", "retention", "adapter", "registered", "timing",
}  # fmt: skip


def run(
    root: Path, tracker: RecordingTracker | None = None, kit: FakeKit | None = None, **sections: Any
) -> dict[str, Any]:
    config = make_config(**sections)
    factory = StoreAt(str(root / "store"))
    return run_edit(config, factory, tracker or RecordingTracker(), edits=make_edits(10), kit=kit or FakeKit())


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: None)


def test_the_result_has_every_field(tmp_path: Path) -> None:
    result = run(tmp_path, tracking={"register": "model"})
    assert set(result) == FIELDS
    assert [stage["edits"] for stage in result["stages"]] == [4, 4, 2]
    assert all(stage["committed"] for stage in result["stages"])
    assert result["final"]["reliability.generate"] == 1.0
    assert [len(row) for row in result["retention"]] == [1, 2, 3]
    assert set(result["timing"]) == {"load_s", "edit_s", "evaluate_s", "commit_s", "edits_per_s"}
    assert result["timing"]["edits_per_s"] == pytest.approx(10 / 0.03)
    assert result["registered"] == {"name": "model", "version": 1}
    place = Path(result["adapter"]["uri"])
    assert result["adapter"]["bytes"] == sum(path.stat().st_size for path in place.iterdir())
    assert json.loads((place / "manifest.json").read_text())["state_digest"] == result["adapter"]["digest"]
    assert result["adapter"]["digest"] == result["stages"][-1]["state_digest"]
    json.dumps(result)


def test_the_record_holds_what_is_committed(tmp_path: Path) -> None:
    tracker = RecordingTracker()
    result = run(tmp_path, tracker, tracking={"register": "model"})
    assert sorted(tracker.metrics) == [4, 8, 10]
    assert tracker.metrics[8]["reliability.generate"] == 1.0
    assert tracker.metrics[8]["time.edit_s"] > 0
    assert sorted(tracker.adapters) == [0, 1, 2]
    assert tracker.sources[2] == result["adapter"]["uri"]
    assert [len(tracker.tables[f"edits/stage-{k:04d}.json"]) for k in range(3)] == [4, 8, 10]
    assert {"config.yaml", "report/report.md", "report/result.json"} <= tracker.artifacts
    assert tracker.registered == [("model", "candidate")]
    assert tracker.statuses == ["FINISHED"]


def test_the_report_lies_beside_the_stages(tmp_path: Path) -> None:
    run(tmp_path)
    store = StoreAt(str(tmp_path / "store"))()
    assert b"run-1" in store.get("runs/run-1/report/report.md")
    assert store.exists("runs/run-1/config.yaml")


def test_the_report_is_told_what_it_cannot_know(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: dict[str, Any] = {}
    monkeypatch.setattr(
        "elder.pipelines.edit.driver.write_report", lambda directory, result, rows, **parts: told.update(parts)
    )
    run(tmp_path)
    assert told["retention_of"] == "reliability.generate"  # what the workers put into the matrix
    assert "run_id: run-1" in told["config"]
    assert told["title"]


def test_an_ended_run_returns_its_result_at_once(tmp_path: Path) -> None:
    first = run(tmp_path)
    tracker = RecordingTracker()
    explosive = FakeKit(mishaps=(Mishap("raise", 0, "", once=False),))
    assert run(tmp_path, tracker, explosive) == first
    assert tracker.starts == 0


def test_a_broken_run_continues_and_logs_what_is_missing(tmp_path: Path) -> None:
    whole = run(tmp_path / "whole")
    kit = FakeKit(mishaps=(Mishap("raise", 5, str(tmp_path / "struck")),))
    first, second = RecordingTracker(), RecordingTracker()
    with pytest.raises(ValueError, match="stumbled"):
        run(tmp_path, first, kit)
    assert first.statuses == ["FAILED"]
    assert sorted(first.metrics) == [4]
    result = run(tmp_path, second, kit)
    assert sorted(second.metrics) == [4, 8, 10]  # all of it: repeating changes nothing
    assert [s["state_digest"] for s in result["stages"]] == [s["state_digest"] for s in whole["stages"]]


def test_who_takes_over_is_told_who_may_still_hold_the_room(tmp_path: Path) -> None:
    factory, events = StoreAt(str(tmp_path / "store")), list[Any]()
    RunState(factory(), "run-1").drivers.take({"host": "elsewhere", "process": "7"})  # and was killed, or works on
    run_edit(make_config(), factory, RecordingTracker(), events.append, edits=make_edits(10), kit=FakeKit())
    note = next(event["text"] for event in events if event["kind"] == "note")
    assert note.startswith("driver 2 of this run; if the one before it is alive, it stops within seconds")
    assert note.endswith("keep their room until then (host elsewhere, process 7)")


def test_a_driver_that_has_said_its_end_is_not_waited_for(tmp_path: Path) -> None:
    kit, events = FakeKit(mishaps=(Mishap("raise", 5, str(tmp_path / "struck")),)), list[Any]()
    with pytest.raises(ValueError, match="stumbled"):
        run(tmp_path, kit=kit)
    factory = StoreAt(str(tmp_path / "store"))
    run_edit(make_config(), factory, RecordingTracker(), events.append, edits=make_edits(10), kit=kit)
    assert not [event for event in events if event["kind"] == "note"]


def _count_fetches(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is read of committed stages from now on: adapters and tables of edits, by stage."""
    read: list[str] = []
    fetch, read_rows = RunState.fetch, RunState.read_rows

    def fetching(state: RunState, commit: Commit, directory: Path, names: Any = None) -> Path:
        read.append(f"adapter {commit.stage}")
        return fetch(state, commit, directory, names)

    def reading(state: RunState, commit: Commit) -> list[dict[str, Any]]:
        read.append(f"rows {commit.stage}")
        return read_rows(state, commit)

    monkeypatch.setattr(RunState, "fetch", fetching)
    monkeypatch.setattr(RunState, "read_rows", reading)
    return read


def test_a_resumed_run_logs_and_fetches_what_is_missing_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kit, tracker = FakeKit(mishaps=(Mishap("raise", 9, str(tmp_path / "struck")),)), RecordingTracker()
    with pytest.raises(ValueError, match="stumbled"):
        run(tmp_path, tracker, kit)
    assert tracker.calls == {"log_metrics": 2, "log_table": 2, "log_adapter": 2}
    tracker.calls.clear()
    read = _count_fetches(monkeypatch)
    result = run(tmp_path, tracker, kit, tracking={"register": "model"})
    assert len(result["stages"]) == 3
    assert tracker.calls == {"log_metrics": 1, "log_table": 1, "log_adapter": 1}
    assert [one for one in read if one.startswith("adapter")] == ["adapter 1", "adapter 2"]  # resumed from, logged
    assert result["registered"] == {"name": "model", "version": 1}


def test_half_a_stage_in_the_record_is_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = RecordingTracker({"log_adapter": 1000})
    with pytest.raises(UnreachableError):
        run(tmp_path, tracker)
    assert tracker.calls["log_table"] > 0
    done = len(tracker.tables)
    tracker.failing.clear()
    tracker.calls.clear()
    run(tmp_path, tracker)
    assert tracker.calls == {"log_metrics": 3 - done, "log_table": 3 - done, "log_adapter": 3}
    assert sorted(tracker.metrics) == [4, 8, 10]


def test_without_a_tracker_nothing_is_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = _count_fetches(monkeypatch)
    factory = StoreAt(str(tmp_path / "store"))
    run_edit(make_config(), factory, NullTracker(), edits=make_edits(10), kit=FakeKit())
    assert not [one for one in read if one.startswith("adapter")]


def test_another_config_under_the_same_id_is_refused(tmp_path: Path) -> None:
    run(tmp_path)
    with pytest.raises(ConfigError, match="seed: 0 -> 1"):
        run(tmp_path, seed=1)


def test_a_tracker_that_fails_for_a_while_costs_nothing(tmp_path: Path) -> None:
    tracker = RecordingTracker({"log_metrics": 2, "log_adapter": 1})
    result = run(tmp_path, tracker)
    assert len(result["stages"]) == 3
    assert sorted(tracker.metrics) == [4, 8, 10]
    assert sorted(tracker.adapters) == [0, 1, 2]


def test_a_tracker_that_stays_away_leaves_the_edits_committed(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError, match="All edits are applied and committed"):
        run(tmp_path, RecordingTracker({"log_adapter": 1000}))
    store = StoreAt(str(tmp_path / "store"))
    assert len(RunState(store(), "run-1").commits()) == 3
    later = RecordingTracker()
    assert run(tmp_path, later)["final"]["reliability.generate"] == 1.0
    assert sorted(later.adapters) == [0, 1, 2]


def test_a_tracker_that_is_down_is_known_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UnreachableError):
        run(tmp_path, RecordingTracker({"start": 1000}))
    assert RunState(StoreAt(str(tmp_path / "store"))(), "run-1").commits() == []


def test_a_refused_stage_stands_in_the_result_as_not_committed(tmp_path: Path) -> None:
    tracker = RecordingTracker()
    with pytest.raises(StageRefused, match="perplexity") as caught:
        run(tmp_path, tracker, gates={"perplexity": 5.0})
    result = caught.value.result
    assert [(s["stage"], s["edits"], s["committed"]) for s in result["stages"]] == [(0, 4, False)]
    assert result["stages"][0]["metrics"]["perplexity"] == 7.0
    assert tracker.statuses == ["FAILED"]


def test_workers_that_end_early_are_noticed(tmp_path: Path) -> None:
    config, factory = make_config(), StoreAt(str(tmp_path / "store"))
    with pytest.raises(ElderError, match="3 stages are not committed"):
        run_edit(config, factory, RecordingTracker(), edits=make_edits(10), runner=lambda job, on_event: None)


def test_failures_with_a_commit_between_them_do_not_add_up(tmp_path: Path) -> None:
    """A runner whose workers die in every stage, once more than it may, but never twice in the same one."""
    config, factory = make_config(cluster={"workers": 2, "sharding": "none"}), StoreAt(str(tmp_path / "store"))
    calls: list[int] = []

    def frail(job: RunSpec, report: Any) -> None:
        calls.append(len(calls))
        mishap = Mishap("raise", 4 * len(calls), str(tmp_path / f"struck-{len(calls)}"))
        try:
            run_locally(dataclasses.replace(job, kit=FakeKit(mishaps=(mishap,))), report)
        except ValueError as error:
            raise WorkersFailed("the workers failed") from error

    result = run_edit(config, factory, RecordingTracker(), edits=make_edits(10), runner=frail)
    assert len(calls) == 3
    assert len(result["stages"]) == 3


def test_failures_without_a_commit_end_the_run(tmp_path: Path) -> None:
    config, factory = make_config(cluster={"workers": 2, "sharding": "none"}), StoreAt(str(tmp_path / "store"))
    calls: list[int] = []

    def dead(job: RunSpec, report: Any) -> None:
        calls.append(1)
        raise WorkersFailed("the workers failed")

    with pytest.raises(WorkersFailed):
        run_edit(config, factory, RecordingTracker(), edits=make_edits(10), runner=dead)
    assert len(calls) == 1


def test_events_reach_the_display(tmp_path: Path) -> None:
    events: list[Any] = []
    factory = StoreAt(str(tmp_path / "store"))
    run_edit(make_config(), factory, RecordingTracker(), events.append, edits=make_edits(10), kit=FakeKit())
    assert {"phase", "batch", "evaluated", "committed"} <= {event["kind"] for event in events}


def test_sharding_is_decided_before_workers_start() -> None:
    assert decide_sharding(make_config(cluster={"workers": 0, "sharding": "auto"})) == "none"
    assert decide_sharding(make_config(cluster={"workers": 2, "sharding": "zero3"})) == "zero3"


@pytest.mark.parametrize(
    ("memory", "gpus", "wanted"), [(2**50, 1, "none"), (2**20, 1, "zero3"), (2**20, 0, "none"), (None, 1, "none")]
)
def test_auto_looks_at_the_memory_of_a_gpu(
    memory: int | None, gpus: int, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elder.device.device_memory", lambda: memory)
    config = make_config(cluster={"workers": 2, "gpus_per_worker": gpus, "sharding": "auto"})
    assert decide_sharding(config) == wanted


def test_workers_that_share_a_gpu_share_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("elder.device.device_memory", lambda: 1000)
    for gpus, wanted in ((0, None), (0.25, 250), (1, 1000), (2, 1000)):
        config = make_config(cluster={"workers": 2, "gpus_per_worker": gpus})
        assert worker_memory(config) == wanted


def test_the_perplexity_text_is_read_by_the_driver(tmp_path: Path) -> None:
    assert read_text(make_config()) is None
    text = tmp_path / "text.txt"
    text.write_text("Once upon a time")
    assert read_text(make_config(evaluation={"perplexity_text": str(text)})) == "Once upon a time"
    with pytest.raises(ConfigError, match="perplexity_text"):
        read_text(make_config(evaluation={"perplexity_text": str(tmp_path / "none.txt")}))
