"""Members side by side: their drivers in threads, their stages on workers of this process."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elder.errors import RunTakenOver, UnreachableError
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.suite import Member
from elder.pipelines.run.commits import RunState
from elder.pipelines.suite.members import SuiteContext
from elder.pipelines.suite.parallel import SideBySide
from tests.pipelines.fakes import FakeKit, Mishap, RecordingTracker, StoreAt, leave_out_plots, make_config, make_edits
from tests.pipelines.workers_here import WorkersHere


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing and collecting garbage are tested elsewhere."""
    monkeypatch.setattr("elder.pipelines.run.stepping.gc", SimpleNamespace(collect=lambda: 0))
    leave_out_plots(monkeypatch)


def members_of(*names: str, **sections: Any) -> list[Member]:
    """Members that differ in their seed; sections of the config by the member's name."""
    evaluation = {"probes": 0, "protocols": ["generate"]}
    configs: list[RunConfig] = [
        make_config(run_id=name, seed=seed, evaluation=evaluation, **sections.get(name, {}))
        for seed, name in enumerate(names)
    ]
    return [Member(config.run_id, config) for config in configs]


def suite_of(root: Path, members: list[Member], *mishaps: Mishap, **more: Any) -> SuiteContext:
    streams = {(member.config.seed, member.config.data.edits): make_edits(8) for member in members}
    suite = SuiteContext(
        StoreAt(str(root)), RecordingTracker, lambda event: None, streams, "none", kit=FakeKit(mishaps=mishaps)
    )
    return replace(suite, **more)


def test_members_come_to_their_ends_and_ended_ones_need_no_worker(tmp_path: Path) -> None:
    members = members_of("a", "b")
    suite = suite_of(tmp_path, members)
    workers = WorkersHere()
    ended = SideBySide(members, suite, workers).run()
    assert list(ended) == workers.begun == ["a", "b"]
    assert [one.status for one in ended.values()] == ["finished", "finished"]
    assert ended["b"].result["final"]["reliability.generate"] == 1.0
    assert RunState(StoreAt(str(tmp_path))(), "a").result() == ended["a"].result
    again = SideBySide(members, suite, idle := WorkersHere()).run()
    assert idle.begun == []
    assert {name: one.result for name, one in again.items()} == {name: one.result for name, one in ended.items()}


def test_events_carry_the_name_of_their_member(tmp_path: Path) -> None:
    members, events = members_of("a", "b"), list[Mapping[str, Any]]()
    SideBySide(members, suite_of(tmp_path, members, on_event=events.append), WorkersHere()).run()
    assert [(e["member"], e["stage"], e["edits"]) for e in events if e["kind"] == "committed"] == [
        ("a", 0, 4), ("a", 1, 8), ("b", 0, 4), ("b", 1, 8),
    ]  # fmt: skip
    told = [(e["name"], e["status"], e["done"]) for e in events if e["kind"] == "member"]
    assert [one for one in told if one[0] == "a"] == [("a", "running", 0), ("a", "finished", 1)]
    assert told[-1] == ("b", "finished", 2)


def test_a_failure_a_refusal_and_a_dead_worker_are_told_apart_and_sink_nobody(tmp_path: Path) -> None:
    members = members_of("a", "b", "c", "d", b={"gates": {"perplexity": 2.0}})
    once = Mishap("refuse", 5, str(tmp_path / "marker"))
    ended = SideBySide(members, suite_of(tmp_path / "s", members, once), WorkersHere(dies_in="c")).run()
    assert {name: one.status for name, one in ended.items()} == {
        "a": "failed", "b": "refused", "c": "failed", "d": "finished",
    }  # fmt: skip
    assert "will not" in ended["a"].error
    assert len(ended["a"].result["stages"]) == 1
    assert "perplexity" in ended["b"].error
    assert ended["c"].error == "its process ended: killed"


def test_a_store_that_is_away_ends_all_and_records_are_closed(tmp_path: Path) -> None:
    """The worker of one member cannot reach the store while another member is in the middle of a stage."""
    members, meet = members_of("a", "b"), threading.Barrier(2)
    trackers = list[RecordingTracker]()

    def tracker() -> RecordingTracker:
        trackers.append(RecordingTracker())
        return trackers[-1]

    class AwayKit(FakeKit):
        def base(self, job: Any, runtime: Any) -> Any:
            meet.wait(30)
            if job.config.run_id == "a":
                raise UnreachableError("the store does not answer")
            assert workers.aborted.wait(30)
            return super().base(job, runtime)

    suite = suite_of(tmp_path, members, tracker_factory=tracker, kit=AwayKit())
    workers = WorkersHere(2)
    with pytest.raises(UnreachableError, match="does not answer"):
        SideBySide(members, suite, workers).run()
    assert sorted(status for one in trackers for status in one.statuses) == ["FAILED", "KILLED"]


def test_a_member_that_another_driver_takes_over_ends_the_suite(tmp_path: Path) -> None:
    members = members_of("a", "b")

    class TakenKit(FakeKit):
        def base(self, job: Any, runtime: Any) -> Any:
            RunState(job.store_factory(), job.config.run_id).drivers.take({"host": "another"})
            return super().base(job, runtime)

    with pytest.raises(RunTakenOver):
        SideBySide(members, suite_of(tmp_path, members, kit=TakenKit()), workers := WorkersHere()).run()
    assert workers.begun == ["a"]


def test_a_member_that_is_taken_over_in_its_stage_is_the_reason_that_all_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other member meets the end of its worker first; that is no reason."""
    monkeypatch.setattr("elder.pipelines.run.takeover.LOOK_S", 0.02)
    members, other_ended, meet = members_of("a", "b"), threading.Event(), threading.Barrier(2)

    class Noticing(RecordingTracker):
        def finish(self, status: str) -> None:
            other_ended.set()

    class TakenKit(FakeKit):
        def base(self, job: Any, runtime: Any) -> Any:
            meet.wait(30)
            if job.config.run_id == "a":
                RunState(job.store_factory(), "a").drivers.take({"host": "another"})
                assert other_ended.wait(30)
            else:
                assert workers.aborted.wait(30)
            return super().base(job, runtime)

    suite = suite_of(tmp_path, members, tracker_factory=Noticing, kit=TakenKit())
    with pytest.raises(RunTakenOver, match="host another"):
        SideBySide(members, suite, workers := WorkersHere(2)).run()


def test_an_interruption_closes_the_records(tmp_path: Path) -> None:
    members = members_of("a", "b")
    trackers = list[RecordingTracker]()

    def tracker() -> RecordingTracker:
        trackers.append(RecordingTracker())
        return trackers[-1]

    class Interrupted(WorkersHere):
        def run(self, *args: Any) -> Any:
            raise KeyboardInterrupt

    suite = suite_of(tmp_path, members, tracker_factory=tracker)
    with pytest.raises(KeyboardInterrupt):
        SideBySide(members, suite, Interrupted()).run()
    assert trackers[0].statuses == ["KILLED"]


def test_no_more_are_at_work_than_there_are_workers_but_the_next_one_begins_while_one_is_closed(tmp_path: Path) -> None:
    members = members_of("a", "b")
    begun = threading.Event()

    class ClosingTracker(RecordingTracker):
        def finish(self, status: str) -> None:
            assert begun.wait(30), "the second member waits for the record of the first"
            super().finish(status)

    class Watched(WorkersHere):
        def run(self, job: Any, *args: Any) -> Any:
            if job.config.run_id == "b":
                begun.set()
            return super().run(job, *args)

    suite = suite_of(tmp_path, members, tracker_factory=ClosingTracker)
    ended = SideBySide(members, suite, Watched()).run()
    assert [one.status for one in ended.values()] == ["finished", "finished"]
