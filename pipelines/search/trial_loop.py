"""Does what a search asks for: every run on a worker that is free, and stopped early where the search says so.

What is tried and what came of it is decided and recorded in `pipelines.search.trials`; where a run is done, in
`pipelines.cluster.resident_workers`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress

from elder.pipelines.cluster.early_stopping import EarlyStopping
from elder.pipelines.cluster.resident_workers import ResidentWorkers, resident_workers
from elder.pipelines.config.objective import objective_value, unmeasured
from elder.pipelines.config.run import RunConfig
from elder.pipelines.planning.sharding import decide_sharding
from elder.pipelines.run.broker import FAILED, StepOutcome
from elder.pipelines.run.spec import EventHandler, RunSpec, WorkersFailed
from elder.pipelines.search.trials import TrialRun, Trials


def run_on_cluster(trials: Trials, job: Callable[[RunConfig], RunSpec], on_event: EventHandler) -> None:
    """Connect to Ray, see how much room there is, and do the runs.

    Args:
        trials: The search.
        job: A run from its config, as workers get it.
        on_event: Receives notes.

    Raises:
        UnreachableError: The cluster or the store does not answer.
    """
    run, tune = trials.config.run, trials.config.tune
    stages = trials.stages[run.seed]
    early = None
    if tune.scheduler == "asha" and stages > 1:
        early = EarlyStopping(stages, tune.grace_stages, tune.reduction, tune.mode, trials.past())
    each = tune.configs_per_group if tune.resident else 1
    sharding = decide_sharding(run)
    with resident_workers(run, sharding, tune.concurrent, trials.total, on_event, "trials", each) as workers:
        trials.concurrent = workers.count
        TrialLoop(trials, job, workers, early).run()


class TrialLoop:
    """One thread for each run that is under way; the search itself hears of one thing at a time.

    Args:
        trials: Decides which runs are done, and hears of them.
        job: A run from its config, as workers get it.
        workers: Do the runs.
        early: Says which trials are stopped; None: all continue to their end.
    """

    def __init__(
        self,
        trials: Trials,
        job: Callable[[RunConfig], RunSpec],
        workers: ResidentWorkers,
        early: EarlyStopping | None,
    ) -> None:
        self._trials, self._job, self._workers, self._early = trials, job, workers, early
        self._lock = threading.RLock()

    def run(self) -> None:
        """Do runs until the search wants none any more.

        Raises:
            UnreachableError: The store does not answer.
        """
        running: set[Future[None]] = set()
        with ThreadPoolExecutor(self._workers.count, "elder-trial") as threads:
            try:
                while self._begin(threads, running):
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
            except BaseException:
                self._workers.abort()
                raise

    def _begin(self, threads: ThreadPoolExecutor, running: set[Future[None]]) -> bool:
        """Begin all runs that are wanted now; whether there is something to wait for."""
        with self._lock, suppress(StopIteration):
            while (work := self._trials.next()) is not None:
                running.add(threads.submit(self._do, work))
        return bool(running)

    def _do(self, work: TrialRun) -> None:
        """One run, from its last commit on."""
        error, wanted = "", self._trials.config.metrics

        def staged(outcome: StepOutcome) -> bool:
            nonlocal error
            value = objective_value(outcome.metrics, wanted)
            if value is None:
                missing = ", ".join(unmeasured(outcome.metrics, wanted))
                error = f"tune.objective: {missing} is not there or no number after stage {outcome.stage}"
                return False
            with self._lock:
                self._trials.staged(work.name, outcome.stage, outcome.metrics)
                early = self._early if work.guarded else None
                return early is None or early.continues(work.name, outcome.stage, value)

        def begun() -> None:
            with self._lock:
                self._trials.started(work.name)

        def died(reason: str) -> None:
            with self._lock:
                self._trials.stumbled(work.name, reason)

        try:
            outcome = self._workers.run(self._job(work.config), staged, begun, died)
            error = outcome.error if outcome.kind == FAILED else error
        except WorkersFailed as gone:
            error = str(gone)
        with self._lock:
            self._trials.ended(work.name, error or None)
