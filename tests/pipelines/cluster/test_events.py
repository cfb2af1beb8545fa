"""The mailbox between workers and driver, without Ray: the actor's class is ordinary."""

from __future__ import annotations

from typing import Any

from elder.errors import ConfigError, GateError
from elder.pipelines.cluster.events import EventQueue, EventSender


class _Method:
    def __init__(self, events: list[Any]) -> None:
        self._events = events

    def remote(self, event: Any) -> None:
        self._events.append(event)


class _Handle:
    def __init__(self) -> None:
        self.events: list[Any] = []
        self.put = _Method(self.events)


def test_events_are_handed_out_once() -> None:
    mailbox = EventQueue()
    mailbox.put({"kind": "note", "text": "a"})
    assert mailbox.drain() == [{"kind": "note", "text": "a"}]
    assert mailbox.drain() == []


def test_the_lowest_rank_gives_the_reason() -> None:
    mailbox = EventQueue()
    assert mailbox.verdict() == (0, None)
    assert mailbox.stop(1, ConfigError("from 1")) == 1
    reason = GateError("from 0")
    assert mailbox.stop(0, reason) == 2
    assert mailbox.verdict() == (2, reason)


def test_a_failure_may_go_away_but_the_same_one_twice_does_not() -> None:
    mailbox = EventQueue()
    mailbox.fail(0, ValueError("x"), "ValueError: x")
    mailbox.fail(1, ValueError("x"), "ValueError: x")  # another rank: the same accident seen from there
    mailbox.fail(0, ValueError("y"), "ValueError: y")
    assert mailbox.verdict() == (0, None)
    mailbox.fail(0, ValueError("x"), "ValueError: x")
    assert mailbox.verdict()[0] == 1
    assert next(event["text"] for event in mailbox.drain()) == "worker 0 failed: ValueError: x"


def test_progress_is_thinned_but_ends_and_facts_always_pass() -> None:
    handle = _Handle()
    send = EventSender(handle, interval=3600)
    send({"kind": "phase", "name": "edit", "stage": 0})
    for done in (1, 2, 3, 4):
        send({"kind": "batch", "stage": 0, "done": done, "of": 4, "loss": 0.1})
    send({"kind": "committed", "stage": 0, "edits": 4, "metrics": {}})
    assert [(e["kind"], e.get("done")) for e in handle.events] == [("phase", None), ("batch", 4), ("committed", None)]


def test_without_hurry_every_step_passes() -> None:
    handle = _Handle()
    send = EventSender(handle, interval=0.0)
    for done in (1, 2, 3):
        send({"kind": "evaluated", "done": done, "of": 4})
    assert len(handle.events) == 3
