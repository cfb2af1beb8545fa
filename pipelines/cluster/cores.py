"""How many cores this process may use: of its own machine, its affinity and its cgroups. Linux; elsewhere all cores.

A container sees all cores of its host; what it may use of them is in its cgroup, as a quota of processor time.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

ROOT = Path("/")


def usable_cores(root: Path = ROOT) -> int:
    """Cores of this machine that this process may keep busy, at least 1; a quota of 2.5 cores counts as 2.

    Args:
        root: Where `proc` and `sys` are looked for.
    """
    limits = [_allowed(), *_quotas(root)]
    return max(1, int(min(limits)))


def threads_each(cores: int, workers: int) -> int:
    """Threads of each of some workers that share so many cores; at least 1."""
    return max(1, cores // max(1, workers))


def _allowed() -> int:
    """Cores on which the scheduler may put this process."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1


def _quotas(root: Path) -> Iterator[float]:
    """The quotas, in cores, of the cgroups that this process is in, those above them included."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, _, rest = line.partition(":")
        controllers, _, group = rest.partition(":")
        if not controllers:  # version 2: one tree for all controllers
            for folder in _upwards(root / "sys/fs/cgroup", group):
                yield from _second(folder)
        elif "cpu" in controllers.split(","):
            for folder in _upwards(_mount(root, controllers), group):
                yield from _first(folder)


def _mount(root: Path, controllers: str) -> Path:
    """Where version 1 shows the tree of the cpu controller: under all names together, or under its own."""
    together = root / "sys/fs/cgroup" / controllers
    return together if together.is_dir() else root / "sys/fs/cgroup/cpu"


def _upwards(mount: Path, group: str) -> Iterator[Path]:
    """The folders of a group and of those above it. In a container the group's name may be the host's, and only the
    mount itself, which is then the container's own group, is there."""
    parts = [part for part in PurePosixPath(group).parts if part not in ("/", "..")]
    for count in range(len(parts), -1, -1):
        yield mount.joinpath(*parts[:count])


def _second(folder: Path) -> Iterator[float]:
    """`cpu.max` holds `max 100000` or `150000 100000`, in microseconds."""
    words = _read(folder / "cpu.max").split()
    if len(words) == 2 and words[0] != "max":
        yield from _ratio(words[0], words[1])


def _first(folder: Path) -> Iterator[float]:
    """Two files in microseconds; a quota of -1 is none."""
    yield from _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> Iterator[float]:
    try:
        allowed, of = int(quota), int(period)
    except ValueError:  # not there, or of a form that nobody knows: no limit is known
        return
    if allowed > 0 and of > 0:
        yield allowed / of


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
