"""How the model is spread over workers, as far as that is known before they start. Asks no cluster."""

from __future__ import annotations

from elder.pipelines.config.base import StagedConfig
from elder.pipelines.config.run import RunConfig
from elder.pipelines.planning.plan import plan


def decide_sharding(config: RunConfig) -> str:
    """`cluster.sharding`, with `auto` decided by the plan."""
    if config.cluster.workers == 0:
        return "none"
    if config.cluster.sharding != "auto":
        return config.cluster.sharding
    return plan(config, memory_per_worker=worker_memory(config)).sharding


def worker_memory(config: StagedConfig) -> int | None:
    """Bytes that one worker has on its GPU, if workers have GPUs like the one of this process; else None.

    Workers that share a GPU have their part of it.
    """
    share = min(1.0, config.cluster.gpus_per_worker)
    if share <= 0:
        return None
    from elder.device import device_memory

    memory = device_memory()
    return None if memory is None else int(memory * share)
