"""What is known here about the machines that workers will run on. Starts nothing and asks no cluster."""

from __future__ import annotations

from pipelines.staged_config import StagedConfig


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
