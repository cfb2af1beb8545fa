"""The one place that decides device, number format and communication backend, and says why.

The only file that names accelerators and backends.
"""

from __future__ import annotations

from typing import Any

import torch

from elder.errors import ConfigError

INTERFACE_VARIABLE = "GLOO_SOCKET_IFNAME"  # the network interface on which CPU workers meet
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def pick_device(name: str = "auto", local_rank: int = 0) -> torch.device:
    """The device for this process: `auto` takes the GPU of this local rank, or the CPU where there is none.

    Raises:
        ConfigError: The name is unknown, or asks for a GPU that is not there.
    """
    if name == "auto":
        return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")
    if name == "cpu":
        return torch.device("cpu")
    if name.split(":")[0] == "cuda":
        if not torch.cuda.is_available():
            raise ConfigError(f"model.device: '{name}' asks for a GPU, but torch finds none; use 'auto' or 'cpu'")
        try:
            return torch.device(name)
        except RuntimeError:
            raise ConfigError(f"model.device: '{name}' is no device (expected auto, cpu, cuda or cuda:N)") from None
    raise ConfigError(f"model.device: unknown device '{name}' (expected auto, cpu, cuda or cuda:N)")


def device_memory() -> int | None:
    """Bytes of the first GPU that this process sees; None where there is none."""
    return int(torch.cuda.get_device_properties(0).total_memory) if torch.cuda.is_available() else None


def accelerators() -> list[tuple[str, int]]:
    """Name and bytes of memory of every GPU that this process sees."""
    if not torch.cuda.is_available():
        return []
    found = [torch.cuda.get_device_properties(number) for number in range(torch.cuda.device_count())]
    return [(str(one.name), int(one.total_memory)) for one in found]


def gpu_backend_built_in() -> bool:
    """Whether this build of torch has the backend by which GPUs speak to each other (NCCL)."""
    return torch.distributed.is_available() and torch.distributed.is_nccl_available()


def pick_dtype(name: str) -> torch.dtype:
    """The torch dtype of a config name.

    Raises:
        ConfigError: The name is not one of float32, bfloat16, float16.
    """
    if name not in DTYPES:
        raise ConfigError(f"model.dtype: unknown '{name}' (expected one of {', '.join(DTYPES)})")
    return DTYPES[name]


def backend_for(gpus_per_worker: float) -> str:
    """The communication backend of a worker group: NCCL between GPUs, gloo between CPUs."""
    return "nccl" if gpus_per_worker > 0 else "gloo"


def describe(device: torch.device) -> str:
    """One phrase for logs: what the device is."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"CPU, {torch.get_num_threads()} threads"


def run_eagerly(config: Any) -> None:
    """Set, in a config of continuous batching, that every pass runs Python code: no graphs, no compiled steps."""
    config.use_async_batching = False
    config.use_cuda_graph = False
    config.default_compile_level = 0
    config.varlen_compile_config = config.decode_compile_config = None
