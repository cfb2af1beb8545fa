"""Two processes with a gloo group, without Ray: the quickest way to run something under DeepSpeed."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from datetime import timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

LIBRARIES = ["transformers", "transformers.models.llama.modeling_llama", "deepspeed", "elder.models.load"]
PATIENCE = timedelta(seconds=60)  # of a rank that is alone with a collective


def on_ranks(
    function: Callable[..., Any], directory: Path, *args: Any, size: int = 2, fresh: bool = False
) -> list[Any]:
    """Run `function(directory, *args)` on every rank; returns what each of them returned.

    Ranks are forked from a process that has imported the libraries once: importing them takes longer than most tests.
    With `fresh` they start from nothing, in the environment as it is now.
    """
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # DeepSpeed looks when it is imported
    get_context("forkserver").set_forkserver_preload(LIBRARIES)
    given = (size, str(directory), function, args)
    mp.start_processes(_rank, given, nprocs=size, start_method="spawn" if fresh else "forkserver")  # type: ignore[no-untyped-call]
    return [pickle.loads((directory / f"rank-{rank}.pickle").read_bytes()) for rank in range(size)]


def _rank(rank: int, size: int, directory: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size), "DS_ACCELERATOR": "cpu"}
    torch.set_num_threads(1)
    meeting = f"file://{directory}/rendezvous"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size, timeout=PATIENCE)
    found = function(Path(directory), *args)
    (Path(directory) / f"rank-{rank}.pickle").write_bytes(pickle.dumps(found))
    dist.barrier()
    dist.destroy_process_group()
