"""One copy of the weights in the memory of a machine, however many ranks run on it.

Ranks that map the same file share its pages. Weights that are converted while they are read (bfloat16 in the files,
float32 wanted) would belong to each rank alone. So one rank of each machine writes them converted, all map these
files, and they are removed: what is mapped lives as long as the processes.
"""

from __future__ import annotations

import json
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from elder.models.checkpoint import SAFE_INDEX, Checkpoint
from elder.models.rehearsal import Expected
from elder.runtime import Runtime

CONFIGS = ("config.json", "generation_config.json")
SPARE = 1.1  # of the room on the disk that the converted weights take


@contextmanager
def one_copy(
    place: str, checkpoint: Checkpoint, expected: Expected | None, dtype: torch.dtype, runtime: Runtime
) -> Iterator[str]:
    """The directory to load from: the given one, or one with converted weights while the block lasts. Collective.

    Args:
        place: The model's directory or hub id.
        checkpoint: Its files.
        expected: What a load gives, if that is known.
        dtype: The wanted number format.
        runtime: The ranks.

    Yields:
        A directory or hub id: another one than `place` where several ranks of a machine would convert the same weights,
        and its disk for temporary files has room for them.
    """
    if runtime.world_size == 1 or runtime.sharded or not _converts(checkpoint, expected, dtype):
        yield place
        return
    machines = runtime.gather_objects(socket.gethostname())
    first = machines.index(machines[runtime.rank])  # it writes for all ranks of this machine
    writes = first == runtime.rank and machines.count(machines[first]) > 1
    folder = _write(checkpoint, dtype) if writes else ""
    try:
        shared = runtime.gather_objects(folder)[first]
        yield shared if shared and Path(shared, SAFE_INDEX).is_file() else place  # or a machine of the same name
        runtime.barrier()  # all have mapped it
    finally:
        if folder:
            shutil.rmtree(folder, ignore_errors=True)


def _converts(checkpoint: Checkpoint, expected: Expected | None, dtype: torch.dtype) -> bool:
    """Whether all weights become `dtype`, some are not yet, and the files can be mapped."""
    if expected is None or any(file.suffix != ".safetensors" for file in checkpoint.files):
        return False
    return set(expected.formats.values()) == {dtype} and bool(expected.stored - {dtype})


def _write(checkpoint: Checkpoint, dtype: torch.dtype) -> str:
    """A new directory with the weights in this number format; empty if the disk has no room for it."""
    folder = tempfile.mkdtemp(prefix="elder-weights-")
    weight_map: dict[str, str] = {}
    try:
        needed = sum(header.numel() for header in checkpoint.tensors.values()) * dtype.itemsize
        if shutil.disk_usage(folder).free < SPARE * needed:
            raise OSError("no room")
        for number, file in enumerate(checkpoint.files):
            name = f"model-{number:05}.safetensors"
            with safe_open(file, framework="pt") as opened:
                read = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118  # no mapping
            converted = {key: value.to(dtype) if value.is_floating_point() else value for key, value in read.items()}
            save_file(converted, Path(folder, name), {"format": "pt"})
            weight_map |= dict.fromkeys(converted, name)
        for name in CONFIGS:
            if (found := checkpoint.files[0].parent / name).is_file():
                shutil.copy(found, folder)
        Path(folder, SAFE_INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    except (OSError, SafetensorError):  # every rank converts for itself: it needs more memory and gives the same model
        shutil.rmtree(folder, ignore_errors=True)
        return ""
    return folder
