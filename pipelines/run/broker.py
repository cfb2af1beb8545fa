"""Where runs are ordered and carried out: one run at a time, one stage at a time.

The owner posts a run and asks for stage after stage; every rank takes the run from here, and rank 0 waits here after
each committed stage. So ranks never wait in a collective, whose time would run out. A broker is an ordinary object
between two threads, or the state of an actor between machines (`pipelines.cluster.trial_group`). Knows nothing of Ray.
"""

from __future__ import annotations

import threading
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from elder.errors import ElderError, GateError, UnreachableError

STAGE, END, FAILED, UNREACHABLE, LOST = "stage", "end", "failed", "unreachable", "lost"
WAIT_S = 2.0  # how long one question waits for its answer before it must be asked again
AGREEMENT_S = 5.0  # how long a rank that must stop waits for the others to say the same


@dataclass(frozen=True)
class StepOutcome:
    """What became of one request for a stage.

    Attributes:
        kind: `stage`: it is committed; `end`: there is none left; `failed`: the run cannot continue; `unreachable`: the
            store does not answer, which says nothing about the run; `lost`: those who do the work are gone.
        stage: Its number.
        metrics: Its metrics.
        error: Why, for the last three kinds.
        refused: It failed because a gate refused a stage.
    """

    kind: str
    stage: int = -1
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    refused: bool = False


def failure(error: BaseException) -> StepOutcome:
    """An error as an outcome; one that does not explain itself with the place where it was raised."""
    if isinstance(error, UnreachableError):
        return StepOutcome(UNREACHABLE, error=str(error))
    if isinstance(error, ElderError):
        return StepOutcome(FAILED, error=str(error), refused=isinstance(error, GateError))
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({frames[-1].filename.rsplit('/', 1)[-1]}:{frames[-1].lineno})" if frames else ""
    lines = str(error).strip().splitlines() or [""]
    return StepOutcome(FAILED, error=f"{type(error).__name__}: {lines[0][:300]}{place}")


class TrialBroker:
    """Runs are numbered from 0. Methods may be called from any thread; each waits at most `wait_s`, or for agreement.

    Args:
        wait_s: How long one question waits.
        agreement_s: How long a rank that must stop waits for the others.
    """

    def __init__(self, wait_s: float = WAIT_S, agreement_s: float = AGREEMENT_S) -> None:
        self._wait_s, self._agreement_s = wait_s, agreement_s
        self._changed = threading.Condition()
        self._number, self._closed = -1, False
        self._job: Any = None
        self._lost: StepOutcome | None = None
        self._clear()

    def _clear(self) -> None:
        self._wanted, self._stopped = 0, False
        self._stages: dict[int, StepOutcome] = {}
        self._last: StepOutcome | None = None
        self._refused: dict[int, StepOutcome] = {}
        self._failures: Counter[str] = Counter()

    @contextmanager
    def _change(self) -> Iterator[None]:
        with self._changed:
            yield
            self._changed.notify_all()

    def _until(self, ready: Callable[[], bool]) -> bool:
        with self._changed:
            return self._changed.wait_for(ready, self._wait_s)

    # ---- the owner ----------------------------------------------------------------------------------------------

    def post(self, job: Any) -> None:
        """Post a new run."""
        with self._change():
            self._clear()
            self._number, self._job = self._number + 1, job

    def step(self, count: int) -> StepOutcome | None:
        """Order so many stages; returns the outcome of the last of them, or None while there is none."""

        def outcome() -> StepOutcome | None:
            return self._stages.get(count - 1) or self._last or self._lost

        with self._change():
            self._wanted = max(self._wanted, count)
        self._until(lambda: outcome() is not None)
        return outcome()

    def stop(self) -> bool:
        """End the run after its present stage; returns whether it has ended."""
        with self._change():
            self._stopped = True
        return self._until(lambda: (self._last or self._lost) is not None)

    def close(self) -> None:
        """Say that there will be no more runs."""
        with self._change():
            self._closed = self._stopped = True

    def lose(self, reason: str) -> None:
        """Note that the workers are gone."""
        with self._change():
            self._lost = StepOutcome(LOST, error=reason)

    # ---- the ranks ----------------------------------------------------------------------------------------------

    def take(self, rank: int, after: int) -> tuple[int, Any] | None:
        """The number and job of the run after a number, if it has not ended; job None: the last one. None: not yet."""
        with self._changed:
            self._refused.pop(rank, None)  # said by a process that is gone
        if not self._until(lambda: self._closed or (self._number > after and self._last is None)):
            return None
        return (after, None) if self._closed else (self._number, self._job)

    def proceed(self, stage: int, metrics: Mapping[str, float]) -> bool | None:
        """Report a committed stage; returns whether the next one is wanted, or None while that is not known."""
        with self._change():
            self._stages.setdefault(stage, StepOutcome(STAGE, stage, dict(metrics)))
        self._until(lambda: self._stopped or self._wanted >= stage + 2)
        return False if self._stopped else self._wanted >= stage + 2 or None

    def end(self) -> None:
        """Note that the run has ended on all ranks."""
        self._finish(StepOutcome(END))

    def refuse(self, rank: int, size: int, outcome: StepOutcome, final: bool) -> bool:
        """A rank cannot continue. True: none can, so all are in step and may take the next run.

        False: others still wait for this rank in a collective, and only the end of its process frees them. The run is
        then tried again, unless the error is `final` or the same one has come before.
        """
        with self._changed:
            self._refused[rank] = outcome
            if len(self._refused) >= size:
                self._finish(self._refused[min(self._refused)])
            if self._changed.wait_for(lambda: self._last is not None, self._agreement_s):
                return True
            self._failures[outcome.error] += 1
            if final or self._failures[outcome.error] > 1:
                self._finish(outcome)
            return False

    def _finish(self, outcome: StepOutcome) -> None:
        with self._change():
            self._last = self._last or outcome
