"""Two drivers of one run: the older one stops in the middle of its stage, and one of them brings it to its end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from elder.errors import ElderError, RunTakenOver, UnreachableError
from elder.infra.stores.local import LocalStore
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.run import takeover
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.run.takeover import OlderDriver, TakeoverWatch
from tests.pipelines.fakes import FakeKit, Mishap, RecordingTracker, StoreAt, leave_out_plots, make_config, make_edits

Event = Mapping[str, Any]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_plots(monkeypatch)


def drive(root: Path, on_event: Callable[[Event], None], kit: FakeKit | None = None, **more: Any) -> dict[str, Any]:
    tracker = more.pop("tracker", RecordingTracker())
    return run_edit(
        make_config(), StoreAt(str(root)), tracker, on_event, edits=make_edits(10), kit=kit or FakeKit(), **more
    )


def check_whole(root: Path) -> None:
    """All stages are there, with every edit exactly once (threads share torch's randomness, so digests differ)."""
    commits = RunState(LocalStore(root), "run-1").commits()
    assert [(commit.edits, commit.metrics["reliability.generate"]) for commit in commits] == [(4, 1), (8, 1), (10, 1)]


class Older:
    """A driver in a thread that waits in the first batch of stage 1 until it is told to go on."""

    def __init__(self, root: Path) -> None:
        self.there, self.on = threading.Event(), threading.Event()
        self.events: list[Event] = []
        self.tracker, self.error = RecordingTracker(), None
        self._root = root
        self.thread = threading.Thread(target=self._run)
        self.thread.start()
        assert self.there.wait(60)

    def _hear(self, event: Event) -> None:
        self.events.append(event)
        if event["kind"] == "batch" and event["stage"] == 1 and not self.there.is_set():
            self.there.set()
            assert self.on.wait(60)

    def _run(self) -> None:
        self.error: BaseException | None
        try:
            drive(self._root, self._hear, tracker=self.tracker)
        except BaseException as error:
            self.error = error

    def end(self) -> BaseException | None:
        self.on.set()
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.error


def test_the_older_driver_stops_in_its_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "LOOK_S", 0.02)
    older = Older(tmp_path / "store")

    def hear(event: Event) -> None:
        if event["kind"] == "batch" and event["stage"] == 1:  # the newer one is where the older one waits
            end = time.monotonic() + 60
            while not _handed_over(tmp_path / "store") and time.monotonic() < end:
                time.sleep(0.01)
            told.append(older.end())

    told: list[BaseException | None] = []
    drive(tmp_path / "store", hear)
    assert isinstance(told[0], RunTakenOver)
    check_whole(tmp_path / "store")
    assert [e["done"] for e in older.events if e["kind"] == "batch" and e["stage"] == 1] == [2]  # of 4
    assert older.tracker.statuses == [], "the record is the newer driver's"


def _handed_over(root: Path) -> bool:
    return (root / "runs/run-1/drivers/000002.outcome.json").exists()


def test_when_the_newer_driver_fails_the_older_one_continues(tmp_path: Path) -> None:
    """It had not looked yet (every 5 s), so the run stays with it."""
    older = Older(tmp_path / "store")
    with pytest.raises(ElderError, match="will not"):
        drive(tmp_path / "store", lambda event: None, FakeKit(mishaps=(Mishap("refuse", 5, "", once=False),)))
    assert older.end() is None
    check_whole(tmp_path / "store")
    assert older.tracker.statuses == ["FINISHED"]


def test_a_newer_driver_whose_tracker_is_away_does_not_take_the_run(tmp_path: Path) -> None:
    older = Older(tmp_path / "store")
    with pytest.raises(UnreachableError):
        drive(tmp_path / "store", lambda event: None, tracker=RecordingTracker({"start": 1}))
    assert sorted(path.name for path in (tmp_path / "store/runs/run-1/drivers").iterdir()) == ["000001.json"]
    assert older.end() is None
    check_whole(tmp_path / "store")


def job_at(root: Path, claim: int) -> RunSpec:
    return RunSpec(make_config(), make_edits(2), StoreAt(str(root)), claim=claim)


def test_the_watch_stops_what_does_not_ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a Ray worker group: the block waits elsewhere, and ends because `stop` was called."""
    monkeypatch.setattr(takeover, "LOOK_S", 0.02)
    drivers = RunState(LocalStore(tmp_path), "run-1").drivers
    claim, ended = drivers.take({"host": "one"}), threading.Event()

    def work() -> None:
        with TakeoverWatch(job_at(tmp_path, claim), ended.set):
            drivers.take({"host": "two"})
            assert ended.wait(30)
            raise KeyboardInterrupt  # what the work says when it is ended

    with pytest.raises(RunTakenOver, match="host two") as raised:
        work()
    assert isinstance(raised.value.__cause__, KeyboardInterrupt)


def test_a_store_that_is_away_for_a_moment_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(takeover, "LOOK_S", 0.02)
    drivers = RunState(LocalStore(tmp_path), "run-1").drivers
    claim, real, ended = drivers.take({}), LocalStore.list, threading.Event()
    asked: list[str] = []

    def list_(self: LocalStore, prefix: str) -> list[str]:
        asked.append(prefix)
        if len(asked) <= 2:
            raise UnreachableError("away")
        return real(self, prefix)

    monkeypatch.setattr(LocalStore, "list", list_)

    def work() -> None:
        with TakeoverWatch(job_at(tmp_path, claim), ended.set) as watch:
            while len(asked) < 4:
                time.sleep(0.01)
            watch.check()
            drivers.take({})
            assert ended.wait(30)

    with pytest.raises(RunTakenOver):
        work()


def test_who_waits_knows_the_older_driver_and_leaves_the_run_to_it_only_while_it_holds_it(tmp_path: Path) -> None:
    drivers = RunState(LocalStore(tmp_path), "run-1").drivers
    drivers.take({"host": "one"})
    older = OlderDriver(job_at(tmp_path, drivers.take({"host": "two"})))
    assert older.holds() == "host one"
    with pytest.raises(RunTakenOver):
        drivers.check(1)
    assert older.holds() == ""
    assert not older.left_to_it()
