"""A Ray Train worker group that runs one trial after another on a base model that stays loaded.

The owner (the actor of Ray Tune) posts a run in a small actor, the box; every rank takes it from there, rank 0 says
in the box what was committed and asks whether to go on. Ranks wait in the box and not in a collective, whose time
would run out. With `pipelines.cluster.ray_train`, whose pieces it is built of, this file alone imports ray.train.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import ray
import ray.train
from ray.train import FailureConfig, RunConfig
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from elder.device import backend_for
from elder.errors import ElderError
from elder.pipelines.cluster.ray_private import NodeTorchConfig, QuietTrainer
from elder.pipelines.cluster.ray_train import AGREEMENT_S, driver_environment, make_runtime, scaling_of
from elder.pipelines.config.run import ClusterConfig
from elder.pipelines.run.resident import ResidentBases, ResidentRuntime
from elder.pipelines.run.run_stages import run_stages
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.run.stepping import END, STAGE, StepOutcome, failure

WAIT_S = 2.0  # how long one question to the box waits for its answer
CLOSE_S = 60.0  # how long a group may take to end


class TrialBroker:
    """The actor's state: one run at a time, numbered from 0. Every method is quick or waits at most `WAIT_S`."""

    def __init__(self) -> None:
        self._number, self._closed = -1, False
        self._job: list[Any] | None = None
        self._changed = asyncio.Condition()
        self._clear()

    def _clear(self) -> None:
        self._asked, self._stopped = 0, False
        self._stages: dict[int, StepOutcome] = {}
        self._last: StepOutcome | None = None
        self._refused: dict[int, StepOutcome] = {}
        self._stumbles: Counter[str] = Counter()

    async def _say(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, ready: Callable[[], bool]) -> bool:
        try:
            async with self._changed:
                await asyncio.wait_for(self._changed.wait_for(ready), WAIT_S)
        except TimeoutError:
            return False
        return True

    # ---- the owner ----------------------------------------------------------------------------------------------

    async def post(self, job: list[Any]) -> int:
        """A new run, as a list that holds a reference to it; returns its number."""
        self._clear()
        self._number, self._job = self._number + 1, job
        await self._say()
        return self._number

    async def ask(self) -> int:
        """One more stage is wanted; returns how many that makes."""
        self._asked += 1
        await self._say()
        return self._asked

    async def answer(self, count: int) -> StepOutcome | None:
        """What became of the request of this number; None while nothing has."""
        await self._until(lambda: count - 1 in self._stages or self._last is not None)
        return self._stages.get(count - 1, self._last)

    async def stop(self) -> bool:
        """The run is to end behind its stage; whether it has."""
        self._stopped = True
        await self._say()
        return await self._until(lambda: self._last is not None)

    async def close(self) -> None:
        """The group is to end."""
        self._closed = self._stopped = True
        await self._say()

    # ---- the ranks ----------------------------------------------------------------------------------------------

    async def done(self, rank: int) -> int:
        """Number of the last run that has ended; a rank that starts waits for the one behind it."""
        self._refused.pop(rank, None)  # said by a process that is gone
        return self._number if self._last is not None else self._number - 1

    async def take(self, after: int) -> tuple[int, list[Any] | None] | None:
        """The run behind a number; without a run when the group is to end; None while there is neither."""
        await self._until(lambda: self._closed or (self._number > after and self._last is None))
        if self._closed:
            return after, None
        return (self._number, self._job) if self._number > after and self._last is None else None

    async def committed(self, stage: int, metrics: Mapping[str, float]) -> None:
        """A stage of the run is committed; said again by a group that started again."""
        self._stages.setdefault(stage, StepOutcome(STAGE, stage, metrics))
        await self._say()

    async def may_go_on(self, stage: int) -> bool | None:
        """Whether the stage behind this one is wanted; None while that is not known."""
        await self._until(lambda: self._stopped or self._asked >= stage + 2)
        return False if self._stopped else (True if self._asked >= stage + 2 else None)

    async def end(self, outcome: StepOutcome) -> None:
        """The run has ended on all ranks."""
        self._last = self._last or outcome
        await self._say()

    async def refuse(self, rank: int, size: int, outcome: StepOutcome) -> bool:
        """A rank cannot go on with the run; whether all ranks have said so, which ends it."""
        self._refused[rank] = outcome
        if len(self._refused) >= size:
            self._last = self._last or self._refused[min(self._refused)]
            await self._say()
        return self._last is not None

    async def stumble(self, outcome: StepOutcome) -> None:
        """One rank alone met an error that may go away; the same words twice mean that it does not."""
        self._stumbles[outcome.error] += 1
        if self._stumbles[outcome.error] > 1:
            await self.end(outcome)


class GroupTrialHost:
    """A `pipelines.run.stepping.Host` that runs trials on a worker group, which starts with the first of them.

    Args:
        cluster: Number and resources of the workers.
        environment: Environment variables of the workers.
    """

    def __init__(self, cluster: ClusterConfig, environment: Mapping[str, str]) -> None:
        self._cluster, self._environment = cluster, dict(environment)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._box: Any = ray.remote(TrialBroker).options(num_cpus=0, scheduling_strategy=here).remote()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._job: RunSpec | None = None
        self._posted = False

    def begin(self, job: RunSpec) -> None:
        """See `Host.begin`."""
        self.stop()
        self._job, self._posted = job, False

    def advance(self) -> StepOutcome:
        """See `Host.advance`.

        Raises:
            ElderError: The group failed more often than `cluster.max_failures`; committed stages stand.
        """
        if self._job is None:
            return StepOutcome(END)
        if self._thread is None:
            self._thread = threading.Thread(target=self._fit, name="elder-group", daemon=True)
            self._thread.start()
        if not self._posted:
            ray.get(self._box.post.remote([ray.put(self._job)]))
            self._posted = True
        count = ray.get(self._box.ask.remote())
        while True:
            outcome: StepOutcome | None = ray.get(self._box.answer.remote(count))
            if outcome is not None:
                return outcome
            self._check()

    def stop(self) -> None:
        """See `Host.stop`."""
        if self._posted:
            while not ray.get(self._box.stop.remote()):
                self._check()
        self._job, self._posted = None, False

    def close(self) -> None:
        """See `Host.close`."""
        ray.get(self._box.close.remote())
        if self._thread is not None:
            self._thread.join(CLOSE_S)
        ray.kill(self._box)

    def _check(self) -> None:
        if self._thread is None or not self._thread.is_alive():
            reason = str(self._error or "it ended").strip().splitlines()
            raise ElderError(f"the worker group is gone: {reason[-1]}") from self._error

    def _fit(self) -> None:
        """Run the group until it is closed; Ray starts it again when a worker dies."""
        storage = tempfile.mkdtemp(prefix="elder-train-")
        trainer = QuietTrainer(
            _serve_function(self._box),
            scaling_config=scaling_of(self._cluster),
            torch_config=NodeTorchConfig(backend=backend_for(self._cluster.gpus_per_worker)),
            run_config=RunConfig(  # type: ignore[call-arg]
                name=f"trials-{uuid.uuid4().hex[:8]}",
                storage_path=storage,
                failure_config=FailureConfig(max_failures=self._cluster.max_failures),
                worker_runtime_env={"env_vars": self._environment},
            ),
        )
        try:
            with driver_environment():
                trainer.fit()
        except BaseException as error:  # told by `_check` where somebody waits for it
            self._error = error
        finally:
            shutil.rmtree(storage, ignore_errors=True)


def _serve_function(box: Any) -> Callable[[], None]:
    """The function that Ray Train runs on every rank."""

    def train() -> None:
        serve(box)

    return train


def serve(box: Any) -> None:
    """One rank: run after run from the box, on one base model."""
    context = ray.train.get_context()
    rank, size, local = context.get_world_rank(), context.get_world_size(), context.get_local_rank()
    bases, runtimes, after = ResidentBases(), ResidentRuntime(), ray.get(box.done.remote(rank))
    while True:
        taken = ray.get(box.take.remote(after))
        if taken is None:
            continue
        after, reference = taken
        if reference is None:
            return
        job: RunSpec = ray.get(reference[0])
        try:
            runtime = runtimes.get(job, lambda job: make_runtime(job, rank, size))
            own = replace(job, local_rank=local, kit=bases.kit(job.kit))
            run_stages(own, runtime, lambda event: None, _asking(box))
        except Exception as error:
            if not _agreed(box, rank, size, failure(error)):
                _leave(box, error)
                raise  # others still wait for this rank: only the end of the group frees them
        else:
            if rank == 0:
                ray.get(box.end.remote(StepOutcome(END)))


def _asking(box: Any) -> Callable[[int, Mapping[str, float]], bool]:
    """A `Proceed` that tells the box and waits for its answer."""

    def proceed(stage: int, metrics: Mapping[str, float]) -> bool:
        ray.get(box.committed.remote(stage, dict(metrics)))
        answer: bool | None = None
        while answer is None:
            answer = ray.get(box.may_go_on.remote(stage))
        return answer

    return proceed


def _agreed(box: Any, rank: int, size: int, outcome: StepOutcome) -> bool:
    """Whether all ranks say soon that the run cannot go on: then the group is in step and takes the next one."""
    end = time.monotonic() + AGREEMENT_S
    while not (done := ray.get(box.refuse.remote(rank, size, outcome))) and time.monotonic() < end:
        time.sleep(0.1)
    return bool(done)


def _leave(box: Any, error: BaseException) -> None:
    outcome = failure(error)
    ray.get(box.end.remote(outcome) if isinstance(error, ElderError) else box.stumble.remote(outcome))
