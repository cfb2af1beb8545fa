"""The one reader of safetensors files that comes from outside: whatever is wrong with one is one clear error.

And their writer, which says that a disk is full as others do.

Knows nothing of what the tensors are.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from elder.errors import AdapterError, ElderError
from elder.paths import check_plain

UNREADABLE = (OSError, SafetensorError, RuntimeError, ValueError, LookupError, AttributeError, TypeError, OverflowError)
"""What safetensors raises on damaged files, and torch on number formats and shapes that it does not have."""


@contextmanager
def open_safetensors(path: Path, refuse: type[ElderError] = AdapterError) -> Iterator[Any]:
    """A safetensors file, opened on the CPU; reading inside of the block raises as opening does.

    Args:
        path: The file.
        refuse: The error to raise.

    Yields:
        What `safetensors.safe_open` gives: `keys()`, `get_slice(name)`, `get_tensor(name)`, `metadata()`.

    Raises:
        ElderError: Of that class; it names the file and the reason.
    """
    check_plain(path, refuse)
    try:
        with safe_open(str(path), framework="pt") as file:  # type: ignore[no-untyped-call]
            yield file
    except UNREADABLE as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise refuse(f"'{path}' is damaged, or no safetensors file: {reason}") from error


def read_tensors(path: Path, refuse: type[ElderError] = AdapterError) -> dict[str, Tensor]:
    """All tensors of a safetensors file, by name.

    Raises:
        ElderError: As `open_safetensors`.
    """
    with open_safetensors(path, refuse) as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file.

    Raises:
        OSError: The disk is full or not writable, as any writer says it; safetensors has an error of its own for that.
    """
    try:
        save_file(dict(tensors), str(path), None if metadata is None else dict(metadata))
    except SafetensorError as error:
        number = re.search(r"\(os error (\d+)\)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """Names of the tensors that hold NaN or infinity."""
    return [
        name for name, tensor in tensors.items() if tensor.is_floating_point() and not bool(tensor.isfinite().all())
    ]
