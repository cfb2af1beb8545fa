"""Workers of a search or of a suite: actors that do one run after another and keep the base model loaded.

With one worker a run, the actor is the worker; with more, or with sharded weights, it owns a worker group. Ray places
the actors where there is room. Knows nothing of what the runs are for.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import ray

from elder.device import pick_device
from elder.errors import UnreachableError
from elder.pipelines.cluster.ray_train import connection, last_line, threads_of, worker_environment
from elder.pipelines.cluster.trial_resources import concurrency, free_slots, trial_cluster
from elder.pipelines.config.run import ClusterConfig, RunConfig
from elder.pipelines.run.broker import LOST, STAGE, UNREACHABLE, StepOutcome
from elder.pipelines.run.spec import EventHandler, RunSpec, WorkersFailed
from elder.pipelines.run.stepping import CLOSE_S, LocalTrialHost
from elder.runtime import LocalRuntime


class WorkerHost(LocalTrialHost):
    """The actor is itself the worker of its runs."""

    def __init__(self, cluster: ClusterConfig) -> None:
        import torch

        torch.set_num_threads(threads_of(cluster, neighbours=1))
        super().__init__(LocalRuntime(pick_device("auto" if cluster.gpus_per_worker else "cpu")))


@dataclass(eq=False)
class _Worker:
    actor: Any
    runs: int = 0


class ResidentWorkers:
    """Gives each run that comes the first worker that is free. `run` is called in one thread for each run.

    Args:
        cluster: Workers of each run, and how often they may die in one.
        sharding: `none`, `zero2` or `zero3`, decided.
        count: Runs at a time.
        runs_each: Runs after which a worker is replaced; None: never.
    """

    def __init__(self, cluster: ClusterConfig, sharding: str, count: int, runs_each: int | None = None) -> None:
        self.count = count
        self._cluster, self._sharding, self._runs_each = cluster, sharding, runs_each
        self._changed = threading.Condition()
        self._free: list[_Worker] = []
        self._all: list[_Worker] = []
        self._waiting, self._starting, self._ended = 0, 0, False

    def run(
        self,
        job: RunSpec,
        staged: Callable[[StepOutcome], bool],
        begun: Callable[[], None] = lambda: None,
        died: Callable[[str], None] = lambda reason: None,
    ) -> StepOutcome:
        """Bring a run to its end, from its last commit on.

        Args:
            job: The run.
            staged: Called after every committed stage; when it says no, the run ends there.
            begun: Called when the run has a worker, and again when it has another one.
            died: Called with the reason when a worker died and another one takes the run up.

        Returns:
            Its last outcome: `end`, `failed`, or `stage` of a run that was stopped.

        Raises:
            UnreachableError: The store does not answer.
            WorkersFailed: Workers died more often than `cluster.max_failures`.
            KeyboardInterrupt: `abort` was called.
        """
        for failures_left in range(self._cluster.max_failures, -1, -1):
            worker, outcome = self._take(), StepOutcome(LOST)
            try:
                begun()
                outcome = _follow(worker.actor, job, staged)
            except ray.exceptions.RayError as error:
                outcome = StepOutcome(LOST, error=f"its process ended: {last_line(error)}")
            finally:
                self._give_back(worker, sound=outcome.kind not in (LOST, UNREACHABLE))
            if outcome.kind == UNREACHABLE:
                raise UnreachableError(f"{outcome.error}\nwhat is committed is kept; the same command resumes from it")
            if outcome.kind != LOST:
                return outcome
            if self._ended:
                raise KeyboardInterrupt
            if failures_left:
                died(f"{outcome.error}; it resumes from its last committed stage")
        raise WorkersFailed(outcome.error)

    def abort(self) -> None:
        """End all runs now."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
            everyone, self._all, self._free = self._all, [], []
        for worker in everyone:
            ray.kill(worker.actor)

    def close(self) -> None:
        """Free everything. Workers that are idle may end in their own way, such as those that own a group."""
        for worker in list(self._free):
            _close(worker)
        self.abort()

    def _take(self) -> _Worker:
        """The first worker that is free, or that has found its place."""
        with self._changed:
            self._waiting += 1
            self._start()
            self._changed.wait_for(lambda: self._free or self._ended)
            self._waiting -= 1
            if self._ended:
                raise KeyboardInterrupt
            return self._free.pop()

    def _start(self) -> None:
        """Begin as many workers as are waited for and may be there at a time. The lock is held."""
        missing = self._waiting - len(self._free) - self._starting
        for _ in range(min(missing, self.count - len(self._all))):
            worker = _Worker(self._actor())
            self._all.append(worker)
            self._starting += 1
            threading.Thread(target=self._settle, args=(worker,), name="elder-worker", daemon=True).start()

    def _actor(self) -> Any:
        """A new worker; Ray starts it when there is room."""
        cluster = self._cluster
        if cluster.workers >= 2 or self._sharding == "zero3":
            from elder.pipelines.cluster.trial_group import GroupTrialHost

            group = ray.remote(GroupTrialHost).options(num_cpus=0)  # every core is for the group
            return group.remote(cluster, worker_environment(cluster))
        worker = ray.remote(WorkerHost).options(num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker)
        return worker.remote(cluster)

    def _settle(self, worker: _Worker) -> None:
        """Wait until a new worker has its place, or has failed, which the run that gets it will notice."""
        with suppress(Exception):
            ray.get(worker.actor.stop.remote())  # does nothing
        with self._changed:
            self._starting -= 1
            self._put(worker)

    def _put(self, worker: _Worker) -> None:
        with self._changed:
            if worker in self._all:
                self._free.append(worker)
                self._changed.notify_all()

    def _give_back(self, worker: _Worker, sound: bool) -> None:
        worker.runs += 1
        if sound and worker.runs != self._runs_each:
            self._put(worker)
            return
        if sound:
            _close(worker)
        with suppress(ray.exceptions.RayError):
            ray.kill(worker.actor)
        with self._changed:
            if worker in self._all:
                self._all.remove(worker)
                self._start()


def _follow(actor: Any, job: RunSpec, staged: Callable[[StepOutcome], bool]) -> StepOutcome:
    """Ask for stage after stage."""
    ray.get(actor.begin.remote(job))
    while True:
        outcome: StepOutcome = ray.get(actor.advance.remote())
        if outcome.kind != STAGE:
            return outcome
        if not staged(outcome):
            ray.get(actor.stop.remote())
            return outcome


def _close(worker: _Worker) -> None:
    """Let a worker free what it has; it may be dead."""
    with suppress(ray.exceptions.RayError):
        ray.get(worker.actor.close.remote(), timeout=CLOSE_S)


@contextmanager
def resident_workers(
    run: RunConfig, sharding: str, cap: int | None, runs: int, on_event: EventHandler, what: str,
    runs_each: int | None = None,
) -> Iterator[ResidentWorkers]:  # fmt: skip
    """Workers on the Ray cluster that a config names, until the end of the block.

    Args:
        run: What all runs have in common.
        sharding: How base models lie on workers, decided.
        cap: At most so many runs at a time.
        runs: How many there are.
        on_event: Receives notes.
        what: The runs are called.
        runs_each: Runs after which a worker is replaced; None: never.

    Raises:
        UnreachableError: The cluster does not answer.
    """
    cluster = trial_cluster(run)
    with connection(cluster, worker_environment(cluster), on_event, everywhere=True):
        count = concurrency(free_slots(cluster), cap, runs)
        on_event({"kind": "note", "text": f"{count} {what} at a time"})
        workers = ResidentWorkers(cluster, sharding, count, runs_each)
        try:
            yield workers
        finally:
            workers.close()
