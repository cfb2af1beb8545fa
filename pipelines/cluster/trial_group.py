"""A Ray Train worker group that does one run after another on a base model that stays loaded.

The owner and the ranks meet in a `TrialBroker` that is an actor. With `pipelines.cluster.ray_train`, whose pieces it
is built of, and `ray_private` this file alone imports ray.train.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

import ray
import ray.train
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from elder.pipelines.cluster.ray_train import driver_environment, make_runtime, trainer_of
from elder.pipelines.config.run import ClusterConfig
from elder.pipelines.run.broker import TrialBroker
from elder.pipelines.run.resident import ResidentBases
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.run.stepping import TrialHost, serve


class RemoteBroker:
    """A broker in an actor, called like one in this process. Jobs are sent by reference, straight to the ranks."""

    def __init__(self, actor: Any) -> None:
        self._actor = actor

    def post(self, job: RunSpec) -> None:
        """See `TrialBroker.post`."""
        ray.get(self._actor.post.remote([ray.put(job)]))

    def take(self, rank: int, after: int) -> tuple[int, RunSpec | None] | None:
        """See `TrialBroker.take`."""
        taken = ray.get(self._actor.take.remote(rank, after))
        return taken if taken is None or taken[1] is None else (taken[0], ray.get(taken[1][0]))

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._actor, name)
        return lambda *args: ray.get(method.remote(*args))


class GroupTrialHost(TrialHost):
    """Runs trials on a worker group, which starts with the first of them. Ray starts it again when a worker dies.

    Args:
        cluster: Number and resources of the workers.
        environment: Environment variables of the workers.
    """

    def __init__(self, cluster: ClusterConfig, environment: Mapping[str, str]) -> None:
        self._cluster, self._environment = cluster, dict(environment)
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        # A call that waits takes a thread; the calls of a rank that died wait beside those of its successor.
        self._actor: Any = (
            ray.remote(TrialBroker)
            .options(num_cpus=0, max_concurrency=4 + 2 * cluster.workers, scheduling_strategy=here)
            .remote()
        )
        super().__init__(RemoteBroker(self._actor), self._fit)

    def close(self) -> None:
        """See `TrialHost.close`."""
        super().close()
        ray.kill(self._actor)

    def _fit(self) -> None:
        """Run the group until the broker is closed."""
        name, actor = f"trials-{uuid.uuid4().hex[:8]}", self._actor
        with trainer_of(lambda: _serve_rank(actor), self._cluster, self._environment, name) as trainer:
            with driver_environment():
                trainer.fit()


def _serve_rank(actor: Any) -> None:
    """What Ray Train runs on every rank."""
    context, known = ray.train.get_context(), dict[tuple[str, str], Any]()
    rank, size = context.get_world_rank(), context.get_world_size()

    def runtime_of(job: RunSpec) -> Any:
        key = job.sharding, job.config.model.device  # no number format: each base is loaded in that of its own run
        if key not in known:
            known.clear()
            known[key] = make_runtime(job, rank, size)
        return known[key]

    serve(RemoteBroker(actor), ResidentBases(), runtime_of, rank, size, context.get_local_rank())
