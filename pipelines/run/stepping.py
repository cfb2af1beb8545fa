"""A run that is taken forward one stage at a time: what an actor does between the questions of a scheduler.

The stage loop of `pipelines.run.stage_loop` runs in a thread and waits behind every committed stage until it is
asked for the next one, or told to end. Knows nothing of Ray.
"""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from queue import Queue
from typing import Any, Protocol

from elder.errors import ElderError, GateError, UnreachableError
from elder.pipelines.run.resident import ResidentBases
from elder.pipelines.run.run_stages import run_stages
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.run.stage_loop import Proceed

STAGE, END, FAILED, UNREACHABLE = "stage", "end", "failed", "unreachable"


@dataclass(frozen=True)
class StepOutcome:
    """What became of one request for a stage.

    Attributes:
        kind: `stage`: it is committed; `end`: there is none left; `failed`: the run cannot go on; `unreachable`: the
            store does not answer, which says nothing about the run.
        stage: Its number.
        metrics: Its metrics.
        error: Why, for the last two kinds.
        refused: It failed because a gate refused a stage.
    """

    kind: str
    stage: int = -1
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    refused: bool = False


class TrialHost(Protocol):
    """Where trials run one after another: this process, or a worker group."""

    def begin(self, job: RunSpec) -> None:
        """Take up a run; nothing is done before the first `advance`."""

    def advance(self) -> StepOutcome:
        """One more stage of the run, from the store if it is committed already."""

    def stop(self) -> None:
        """Leave the run behind its last stage; without one, nothing."""

    def close(self) -> None:
        """Free everything."""


class SteppedRun:
    """Work in a thread that halts behind every stage.

    Args:
        work: Called with a `Proceed`; must call it behind every stage and end when it says no.
    """

    def __init__(self, work: Callable[[Proceed], None]) -> None:
        self._asked: Queue[bool] = Queue()
        self._outcomes: Queue[StepOutcome] = Queue()
        self._thread = threading.Thread(target=self._run, args=(work,), name="elder-trial", daemon=True)
        self._ended = False

    def advance(self) -> StepOutcome:
        """Let it do one more stage and wait for that."""
        if self._ended:
            return StepOutcome(END)
        if self._thread.ident is None:
            self._thread.start()
        else:
            self._asked.put(True)
        outcome = self._outcomes.get()
        self._ended = outcome.kind != STAGE
        return outcome

    def stop(self) -> None:
        """End it behind the stage where it waits."""
        self._ended = True
        if self._thread.ident is not None:
            self._asked.put(False)
            self._thread.join()

    def _proceed(self, stage: int, metrics: Mapping[str, float]) -> bool:
        self._outcomes.put(StepOutcome(STAGE, stage, dict(metrics)))
        return self._asked.get()

    def _run(self, work: Callable[[Proceed], None]) -> None:
        try:
            work(self._proceed)
        except Exception as error:
            self._outcomes.put(failure(error))
        else:
            self._outcomes.put(StepOutcome(END))


class LocalTrialHost:
    """Runs trials in this process, on its device, with the base model kept between them.

    Args:
        runtime: How this process meets the machine.
    """

    def __init__(self, runtime: Any) -> None:
        self.runtime, self.bases = runtime, ResidentBases()
        self._run: SteppedRun | None = None

    def begin(self, job: RunSpec) -> None:
        """See `TrialHost.begin`."""
        self.stop()
        own = replace(job, kit=self.bases.kit(job.kit))
        self._run = SteppedRun(lambda proceed: run_stages(own, self.runtime, _silence, proceed))

    def advance(self) -> StepOutcome:
        """See `TrialHost.advance`."""
        return StepOutcome(END) if self._run is None else self._run.advance()

    def stop(self) -> None:
        """See `TrialHost.stop`."""
        if self._run is not None:
            self._run.stop()
            self._run = None
            gc.collect()  # editors are full of cycles, and their memory is wanted for the next trial

    def close(self) -> None:
        """See `TrialHost.close`."""
        self.stop()
        self.bases = ResidentBases()


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


def _silence(event: Mapping[str, Any]) -> None:
    """Stages speak through their commits."""
