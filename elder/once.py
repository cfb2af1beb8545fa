"""Directories of a cache that are made once: each appears whole or not at all, whoever else wants it meanwhile.

Knows nothing of what is made.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


def cache_root(cache_dir: str | Path | None = None) -> Path:
    """The root of elder's cache: the one that is given, else `~/.cache/elder`."""
    return Path(cache_dir) if cache_dir is not None else Path.home() / ".cache" / "elder"


def made_once(home: Path, complete: Callable[[Path], bool], fill: Callable[[Path], None]) -> Path:
    """A directory that is there when this returns; of several processes and threads that want it, one makes it.

    Args:
        home: The directory.
        complete: Whether a directory has all that belongs into it.
        fill: Writes everything into the empty directory that it is given, which is then renamed. If it raises,
            nothing remains.

    Raises:
        OSError: The cache cannot be written.
    """
    if complete(home):
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.with_name(home.name + ".lock")):
        if not complete(home):
            _make(home, fill)
    return home


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock of the operating system; it goes away with its process, however that ends.

    Args:
        path: A file, which is made, or a directory that is there.
    """
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _make(home: Path, fill: Callable[[Path], None]) -> None:
    """Fill a temporary directory and rename it; the caller holds the lock."""
    for stale in home.parent.glob(f"{home.name}.*.tmp"):  # of a process that was killed: we hold its lock
        shutil.rmtree(stale, ignore_errors=True)
    shutil.rmtree(home, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{home.name}.", suffix=".tmp", dir=home.parent))
    try:
        fill(temporary)
        temporary.chmod(0o755)
        os.rename(temporary, home)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
