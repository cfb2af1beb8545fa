"""What a trial takes of the cluster, and how many run at a time."""

from __future__ import annotations

from typing import Any

from elder.pipelines.config.run import RunConfig


def trial_cluster(run: RunConfig) -> Any:
    """The cluster of each trial: at least one worker, and as many threads as the cores that it reserves."""
    cluster = run.cluster
    threads = cluster.threads_per_worker or max(1, int(cluster.cpus_per_worker))
    return cluster.replace(workers=max(1, cluster.workers), threads_per_worker=threads)


def concurrency(slots: int, cap: int | None, trials: int) -> int:
    """Trials at a time: what there is room for, at most `cap`; where there is no room yet, `cap` or one."""
    room = slots if slots > 0 else (cap or 1)
    return max(1, min(room, cap or room, trials))
