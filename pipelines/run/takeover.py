"""What two drivers of one run see of each other while they work or wait.

The older one looks beside its work whether a newer one has come, and stops in the middle of a stage. The newer one,
which may have to wait for the room of the older one's workers, knows whether that still holds the run.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType

from elder.errors import RunTakenOver, UnreachableError
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.spec import RunSpec

LOOK_S = 5.0  # between two looks at the drivers of the run: one listing of the store each
JOIN_S = 10.0


class TakeoverWatch:
    """The older driver's side, a context around its work: with a newer driver, the block ends with `RunTakenOver`.

    Args:
        job: Its run, and the number of this driver; 0: there is no other.
        stop: Called once by the watching thread when a newer driver has come; ends what does not call `check`.
    """

    def __init__(self, job: RunSpec, stop: Callable[[], None] = lambda: None) -> None:
        self._job, self._stop = job, stop
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="elder-takeover", daemon=True)
        self.error: RunTakenOver | None = None

    def __enter__(self) -> TakeoverWatch:
        if self._job.claim:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        if self._job.claim:
            self._thread.join(JOIN_S)
        if self.error is not None and error is not self.error:
            raise self.error from error

    def check(self) -> None:
        """Stop here if a newer driver has come. Costs nothing.

        Raises:
            RunTakenOver: One has.
        """
        if self.error is not None:
            raise self.error

    def _watch(self) -> None:
        drivers = RunState(self._job.store_factory(), self._job.config.run_id).drivers
        while not self._done.wait(LOOK_S):
            try:
                drivers.check(self._job.claim)
            except RunTakenOver as error:
                self.error = error
                self._stop()
                return
            except UnreachableError:
                continue  # the store is away for a moment; the work meets it too


class OlderDriver:
    """The newer driver's side.

    Args:
        job: Its run, and the number of this driver; with 0 or 1 there is no older one.
    """

    def __init__(self, job: RunSpec) -> None:
        self._drivers, self._number = RunState(job.store_factory(), job.config.run_id).drivers, job.claim
        self._known = ""

    def holds(self) -> str:
        """Who it is, while it has not let go of the run as far as is known; else nothing."""
        with suppress(UnreachableError):
            self._known = self._drivers.older(self._number)
        return self._known

    def left_to_it(self) -> bool:
        """Leave the run to it. False: it has let go already, so that nobody would be left."""
        with suppress(UnreachableError):
            return self._drivers.end(self._number)
        return True
