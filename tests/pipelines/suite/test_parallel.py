"""Members handed to Ray Tune and their drivers, with a loop of our own in Tune's place."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from elder.errors import UnreachableError
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.suite import Member
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.stepping import FAILED, STAGE, LocalTrialHost
from elder.pipelines.suite.members import MemberResult, SuiteContext
from elder.pipelines.suite.parallel import PlacedMembers, shared_of
from elder.runtime import LocalRuntime
from tests.pipelines.fakes import FakeKit, Mishap, RecordingTracker, StoreAt, leave_out_plots, make_config, make_edits


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing and collecting garbage are tested elsewhere."""
    monkeypatch.setattr("elder.pipelines.run.stepping.gc", SimpleNamespace(collect=lambda: 0))
    leave_out_plots(monkeypatch)


def config_of(name: str, **sections: object) -> RunConfig:
    return make_config(run_id=name, evaluation={"probes": 0, "protocols": ["generate"]}, **sections)


def world_of(
    root: Path, configs: list[RunConfig], *mishaps: Mishap, events: list[object] | None = None
) -> SuiteContext:
    return SuiteContext(
        StoreAt(str(root)), RecordingTracker, (lambda event: None) if events is None else events.append,
        {(config.seed, config.data.edits): make_edits(8) for config in configs}, "none", kit=FakeKit(mishaps=mishaps),
    )  # fmt: skip


def drive(placed: PlacedMembers, members: list[Member], world: SuiteContext) -> list[str]:
    """What Tune does, one run after another; returns the names that were handed out."""
    host, shared, begun = LocalTrialHost(LocalRuntime()), shared_of(members, world), []
    while True:
        try:
            work = placed.next()
        except StopIteration:
            host.close()
            return begun
        assert work is not None
        begun.append(work.name)
        host.begin(shared.job(work.config))
        placed.started(work.name)
        outcome = host.advance()
        while outcome.kind == STAGE:
            placed.staged(work.name, outcome.stage, outcome.metrics)
            outcome = host.advance()
        host.stop()
        failed = outcome.kind == FAILED
        placed.ended(work.name, outcome.error if failed else None, outcome.refused)


def test_members_come_to_their_ends_and_ended_ones_are_passed_over(tmp_path: Path) -> None:
    configs = [config_of("a"), config_of("b", seed=1)]
    members, world = [Member(c.run_id, c) for c in configs], world_of(tmp_path, configs)
    first = PlacedMembers(members, world, 1)
    assert drive(first, members, world) == ["a", "b"]
    ended = first.close()
    assert [one.status for one in ended.values()] == ["finished", "finished"]
    assert ended["b"].result["final"]["reliability.generate"] == 1.0
    assert RunState(StoreAt(str(tmp_path))(), "a").result() == ended["a"].result
    again = PlacedMembers(members, world, 1)
    assert drive(again, members, world) == []
    assert {name: one.result for name, one in again.close().items()} == {n: e.result for n, e in ended.items()}


def test_a_failure_and_a_refusal_are_told_apart_and_sink_nobody(tmp_path: Path) -> None:
    configs = [config_of("a"), config_of("b", gates={"perplexity": 2.0}), config_of("c", seed=1)]
    members = [Member(c.run_id, c) for c in configs]
    once = Mishap("refuse", 5, str(tmp_path / "marker"))
    placed = PlacedMembers(members, world := world_of(tmp_path / "s", configs, once), 1)
    drive(placed, members, world)
    ended: dict[str, MemberResult] = placed.close()
    assert {name: one.status for name, one in ended.items()} == {"a": "failed", "b": "refused", "c": "finished"}
    assert "will not" in ended["a"].error
    assert len(ended["a"].result["stages"]) == 1
    assert "perplexity" in ended["b"].error


def test_a_store_that_is_away_ends_all_and_records_are_closed(tmp_path: Path) -> None:
    configs = [config_of("a")]
    members = [Member(c.run_id, c) for c in configs]
    trackers: list[RecordingTracker] = []

    def tracker() -> RecordingTracker:
        trackers.append(RecordingTracker())
        return trackers[-1]

    world = replace(world_of(tmp_path, configs), tracker_factory=tracker)
    placed = PlacedMembers(members, world, 1)
    assert placed.next() is not None
    with pytest.raises(UnreachableError, match="the same command"):
        placed.unreachable("the store does not answer")
    placed.abort()
    assert trackers[0].statuses == ["KILLED"]


def test_no_more_run_at_a_time_than_there_is_room_for(tmp_path: Path) -> None:
    configs = [config_of("a"), config_of("b", seed=1)]
    members, world = [Member(c.run_id, c) for c in configs], world_of(tmp_path, configs)
    placed = PlacedMembers(members, world, 1)
    assert placed.next() is not None
    assert placed.next() is None
    placed.abort()
