"""Runs that are taken forward one stage at a time, one after another, on a base model that stays loaded.

Who does the work is given: a thread of this process here, a worker group in `pipelines.cluster.trial_group`. Both
`serve` a broker. Knows nothing of Ray.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any

from elder.errors import ElderError
from elder.pipelines.run.broker import END, STAGE, StepOutcome, TrialBroker, failure
from elder.pipelines.run.resident import ResidentBases
from elder.pipelines.run.run_stages import run_stages, silence
from elder.pipelines.run.spec import RunSpec
from elder.runtime import Runtime

CLOSE_S = 60.0  # how long the work may take to end


class TrialHost:
    """Where runs are done one after another.

    Args:
        broker: Where the work is ordered; a `TrialBroker`, or something that speaks to one.
        work: Serves the broker until it is closed; called in a thread when the first stage is wanted.
    """

    def __init__(self, broker: Any, work: Callable[[], None]) -> None:
        self._broker, self._work = broker, work
        self._thread = threading.Thread(target=self._serve, name="elder-trials", daemon=True)
        self._job: RunSpec | None = None
        self._asked = 0

    def begin(self, job: RunSpec) -> None:
        """Take up a run; nothing is done before the first `advance`."""
        self.stop()
        self._job = job

    def advance(self) -> StepOutcome:
        """One more stage of the run, from the store if it is committed already."""
        if self._job is None:
            return StepOutcome(END)
        if self._thread.ident is None:
            self._thread.start()
        if not self._asked:
            self._broker.post(self._job)
        self._asked += 1
        outcome: StepOutcome | None = None
        while outcome is None:
            outcome = self._broker.step(self._asked)
        if outcome.kind != STAGE:
            self._job = None
        return outcome

    def stop(self) -> None:
        """Leave the run after its last stage; without one, nothing."""
        while self._asked and not self._broker.stop():
            pass
        self._job, self._asked = None, 0

    def close(self) -> None:
        """Free everything."""
        self._broker.close()
        if self._thread.ident is not None:
            self._thread.join(CLOSE_S)

    def _serve(self) -> None:
        reason = "it ended"
        try:
            self._work()
        except BaseException as error:  # reported to whoever waits for a stage
            reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        with suppress(Exception):  # the broker may have ended too
            self._broker.lose(f"the worker group is gone: {reason}")


class LocalTrialHost(TrialHost):
    """Runs trials in this process, on its device.

    Args:
        runtime: How this process meets the machine.
    """

    def __init__(self, runtime: Runtime) -> None:
        broker, self.bases = TrialBroker(), ResidentBases()
        super().__init__(broker, lambda: serve(broker, self.bases, lambda job: runtime))


def serve(
    broker: Any,
    bases: ResidentBases,
    runtime_of: Callable[[RunSpec], Runtime],
    rank: int = 0,
    size: int = 1,
    local_rank: int = 0,
) -> None:
    """One rank: run after run from the broker, on one base model, until the broker is closed.

    Args:
        broker: As for `TrialHost`.
        bases: Keeps the base model.
        runtime_of: The runtime of this rank for a run.
        rank: Of this process among those of the group.
        size: Of the group.
        local_rank: Rank on this machine.

    Raises:
        Exception: This rank alone cannot continue; only the end of the group frees the others, who wait for it.
    """

    def proceed(stage: int, metrics: Mapping[str, float]) -> bool:
        answer: bool | None = None
        while answer is None:
            answer = broker.proceed(stage, dict(metrics))
        return answer

    after = -1
    while True:
        taken = broker.take(rank, after)
        if taken is None:
            continue
        after, job = taken
        if job is None:
            return
        try:
            own = replace(job, local_rank=local_rank, kit=bases.kit(job.kit))
            run_stages(own, runtime_of(job), silence, proceed)
        except Exception as error:
            if not broker.refuse(rank, size, failure(error), isinstance(error, ElderError)):
                raise
        else:
            if rank == 0:
                broker.end()
        gc.collect()  # editors are full of cycles, and their memory is wanted for the next run
