"""Calls somebody else's program, which has no measure of its own, with a bound on time and memory.

Knows nothing of what the program is.
"""

from __future__ import annotations

import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

STATM = Path("/proc/self/statm")


def call_bounded(call: Callable[[], T], longest_s: float, most_bytes: int) -> T:
    """What a function returns or raises.

    It runs in a thread, which cannot be stopped: one that takes too long is left alone.

    Args:
        call: The function.
        longest_s: Seconds that it may take.
        most_bytes: Memory that this process may take in addition meanwhile; only Linux keeps to it.

    Raises:
        TimeoutError: It has not ended in time.
        MemoryError: It asked for more memory.
    """
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            returned.append(call())
        except BaseException as error:  # it is raised where the function was called
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    with _at_most(most_bytes):
        thread.start()
        thread.join(longest_s)
    if raised:
        raise raised[0]
    if not returned:
        raise TimeoutError(f"it has not ended in {longest_s:g} s")
    return returned[0]


@contextmanager
def _at_most(more: int) -> Iterator[None]:
    """Let this process take so many bytes in addition in the block; other threads of it are bound as well."""
    if not STATM.exists():
        yield
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    wanted = int(STATM.read_text().split()[0]) * resource.getpagesize() + more
    limits = [limit for limit in (wanted, soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min(limits), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
