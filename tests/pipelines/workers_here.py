"""Workers without Ray: what `ResidentWorkers` does, in the threads that call it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from elder.errors import UnreachableError
from elder.pipelines.cluster.resident_workers import ResidentWorkers
from elder.pipelines.run.broker import STAGE, UNREACHABLE, StepOutcome
from elder.pipelines.run.spec import RunSpec, WorkersFailed
from elder.pipelines.run.stepping import LocalTrialHost
from elder.runtime import LocalRuntime


class WorkersHere(ResidentWorkers):
    """Does runs on hosts of this process.

    Args:
        count: Runs at a time.
        dies_in: Name of a run whose worker dies for good.
    """

    def __init__(self, count: int = 1, dies_in: str = "") -> None:
        self.count, self._dies_in = count, dies_in
        self._places = threading.Semaphore(count)
        self.aborted = threading.Event()
        self.begun: list[str] = []

    def run(
        self,
        job: RunSpec,
        staged: Callable[[StepOutcome], bool],
        begun: Callable[[], None] = lambda: None,
        died: Callable[[str], None] = lambda reason: None,
    ) -> StepOutcome:
        with self._places:
            self.begun.append(job.config.run_id)
            begun()
            if self._dies_in and job.config.run_id.endswith(self._dies_in):
                died("its process ended: killed; it resumes from its last committed stage")
                raise WorkersFailed("its process ended: killed")
            host: Any = LocalTrialHost(LocalRuntime())
            host.begin(job)
            try:
                while True:
                    outcome: StepOutcome = host.advance()
                    if self.aborted.is_set():
                        raise KeyboardInterrupt
                    if outcome.kind == UNREACHABLE:
                        raise UnreachableError(outcome.error)
                    if outcome.kind != STAGE or not staged(outcome):
                        return outcome
            finally:
                host.close()

    def abort(self) -> None:
        self.aborted.set()
