"""How a driver hears from its workers while they work: a small Ray actor that keeps events until they are fetched.

It also remembers what must stop the run, so that a worker group that Ray starts again does not repeat it.
Knows nothing of editing; events are plain dictionaries.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

Event = Mapping[str, Any]
THROTTLED = ("batch", "evaluated", "prepared")


class EventQueue:
    """The actor's state. Runs in a process of its own; every method is quick."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._stopped: dict[int, BaseException] = {}
        self._failures: Counter[str] = Counter()
        self._waiting_since: float | None = time.monotonic()
        self._controller: Any = None

    def put(self, event: Event) -> None:
        """Keep an event."""
        self._events.append(event)

    def drain(self) -> list[Event]:
        """Hand out all events, once."""
        events, self._events = self._events, []
        return events

    def stop(self, rank: int, error: BaseException) -> int:
        """A rank met an error that a new try would meet again; returns how many ranks have said so."""
        self._stopped[rank] = error
        return len(self._stopped)

    def fail(self, rank: int, error: BaseException, text: str) -> None:
        """A rank met an error that may go away; the same words twice mean that it does not."""
        self._failures[f"{rank}: {text}"] += 1
        if self._failures[f"{rank}: {text}"] > 1:
            self._stopped[rank] = error
        self._events.append({"kind": "note", "text": f"worker {rank} failed: {text}"})

    def group(self, waits: bool, controller: Any) -> None:
        """Whether the worker group is being placed and started, or not; who can be asked to give up."""
        self._controller = controller
        if not waits:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = time.monotonic()

    def waiting(self) -> tuple[float, Any]:
        """For how many seconds the workers have been waited for, 0 when they run; and Ray Train's controller."""
        return (0.0 if self._waiting_since is None else time.monotonic() - self._waiting_since), self._controller

    def verdict(self) -> tuple[int, BaseException | None]:
        """How many ranks say that the run must stop, and the reason that the lowest of them gives."""
        if not self._stopped:
            return 0, None
        return len(self._stopped), self._stopped[min(self._stopped)]


def open_queue() -> Any:
    """Start the actor beside the driver; it takes no CPU slot and ends with it, not with another node."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(EventQueue).options(num_cpus=0, max_restarts=0, scheduling_strategy=here).remote()


class EventSender:
    """The worker's end: passes events on without waiting, at most ten a second of those that only show progress."""

    def __init__(self, mailbox: Any, interval: float = 0.1) -> None:
        self._mailbox, self._interval, self._last = mailbox, interval, 0.0

    def __call__(self, event: Event) -> None:
        """Send an event, or leave it out when the one before was sent just now and more will come."""
        now = time.monotonic()
        if event["kind"] in THROTTLED and event["done"] < event["of"] and now - self._last < self._interval:
            return
        self._last = now
        self._mailbox.put.remote(dict(event))


class EventListener:
    """The driver's end: a thread that fetches events beside a blocking call and hands them to a callback.

    What the callback raises comes out at the end of the `with` block, where it is not lost.
    """

    def __init__(self, mailbox: Any, on_event: Callable[[Event], None], interval: float = 0.1) -> None:
        self._mailbox, self._on_event, self._interval = mailbox, on_event, interval
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._listen, name="elder-events", daemon=True)

    def __enter__(self) -> EventListener:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join()
        if self._error is not None and error is None:
            raise self._error

    def _listen(self) -> None:
        try:
            last = False
            while not last:
                last = self._done.wait(self._interval)
                for event in ray.get(self._mailbox.drain.remote()):
                    self._on_event(event)
        except ray.exceptions.RayError:
            return  # the actor is gone and the run continues without a display; what is committed is in the store
        except BaseException as error:  # raised again in the driver's thread
            self._error = error
