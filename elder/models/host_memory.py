"""Memory of this machine's processes: what a loader no longer needs goes back to the system."""

from __future__ import annotations

import ctypes
import sys


def give_back_memory() -> None:
    """Let the C library return the memory of tensors that are gone, where it can.

    glibc keeps freed blocks of megabytes for the next ones. After a sharded load that is more than the shards.
    """
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # another C library has none
    if trim is not None:
        trim(0)
