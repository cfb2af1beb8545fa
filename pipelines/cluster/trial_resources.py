"""What a trial takes of the cluster, and how many run at a time."""

from __future__ import annotations

from typing import Any

import ray

from elder.pipelines.config.run import ClusterConfig, RunConfig


def trial_cluster(run: RunConfig) -> Any:
    """The cluster of each trial: at least one worker, and as many threads as the cores that it reserves."""
    cluster = run.cluster
    threads = cluster.threads_per_worker or max(1, int(cluster.cpus_per_worker))
    return cluster.replace(workers=max(1, cluster.workers), threads_per_worker=threads)


def free_slots(cluster: ClusterConfig) -> int:
    """How many trials the cluster has room for as it is now, busy or not; may be 0 on one that grows."""
    present = dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    workers = max(1, cluster.workers)
    rooms = [int(present.get("CPU", 0.0) // (workers * cluster.cpus_per_worker))]
    if cluster.gpus_per_worker:
        rooms.append(int(present.get("GPU", 0.0) / (workers * cluster.gpus_per_worker)))
    return min(rooms)


def concurrency(slots: int, cap: int | None, trials: int) -> int:
    """Trials at a time: what there is room for, at most `cap`; where there is no room yet, `cap` or one."""
    room = slots if slots > 0 else (cap or 1)
    return max(1, min(room, cap or room, trials))
