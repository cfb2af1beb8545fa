"""The files that travel with a submitted job: a new directory with the code, the run's own files, the user's folder.

The user's folder gets another name, so that a `jobs/` or `tests/` in it cannot take the place of our
packages. Knows nothing of configs; Ray makes the archive (`infra.ray_jobs.submit`).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from fnmatch import fnmatch
from pathlib import Path

import elder
from elder.errors import ConfigError
from elder.paths import check_plain

FILES = "files"  # where the user's folder lies in the job's working directory
RUN = "run"  # config, start script and small inputs
EXCLUDED = (
    ".git", ".venv", "venv", "__pycache__", "*.pyc", ".mypy_cache", ".pytest_cache", ".ruff_cache", "node_modules",
    "elder-runs", ".env", ".env.*", "*.pem", "id_rsa*", ".ipynb_checkpoints", ".DS_Store",
)  # fmt: skip
IGNORE_FILES = (".gitignore", ".rayignore")
SHOWN = 5
START = """#!/bin/sh
# The first Python that has Ray: the one on PATH, which in Ray's images is that of the cluster, or the submitter's.
for python in python python3 {python}; do
  if "$python" -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("ray") is None)' 2>/dev/null; then
    exec "$python" -m elder.jobs.main "$@"
  fi
done
echo "error: no python with ray on PATH of the head node: start Ray from an activated environment" >&2
exit 3
"""


def code_root() -> Path:
    """The folder that holds the package of this installation."""
    return Path(elder.__file__).resolve().parent.parent


def stage_code(target: Path) -> None:
    """Copy our package, as it is here, so that driver and workers run the submitter's version.

    In a checkout some of its folders are links to others beside it; what travels are the files.
    """
    shutil.copytree(code_root() / "elder", target / "elder", ignore=shutil.ignore_patterns(*EXCLUDED))


def stage_start(target: Path, python: str) -> None:
    """Write the script that starts the command line in the job.

    Args:
        target: The staged directory.
        python: A further interpreter to try, or nothing.
    """
    (target / RUN).mkdir(parents=True, exist_ok=True)
    quoted = "'" + python.replace("'", "'\\''") + "'" if python else ""
    (target / RUN / "start.sh").write_text(START.format(python=quoted), encoding="utf-8")


def stage_folder(source: Path, target: Path, excluded: Sequence[str], limit: int) -> list[Path]:
    """Copy the user's folder without what never travels and what .gitignore and .rayignore files name.

    Args:
        source: The user's folder.
        target: The staged directory; the copy lies in `files/` below it.
        excluded: Further patterns, each matched against names and against paths below `source`.
        limit: Most bytes; more are refused before anything is copied.

    Returns:
        The files that were taken, as paths below `source`.

    Raises:
        ConfigError: There is no such folder, it is too large, or a list of what to ignore cannot be read.
    """
    if not source.is_dir():
        raise ConfigError(f"--working-dir {source}: no such directory")
    taken = list(folder_files(source, excluded))
    check_size({path: (source / path).stat().st_size for path in taken}, limit, str(source))
    for path in taken:
        place = target / FILES / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / path, place)
    return taken


def folder_files(source: Path, excluded: Sequence[str] = ()) -> Iterator[Path]:
    """The files of a folder that may travel, as paths below it; links to folders are not followed."""
    patterns = (*EXCLUDED, *excluded)

    def walk(folder: Path, ignoring: tuple[Callable[[Path], bool], ...]) -> Iterator[Path]:
        ignoring += tuple(_ignored_by(folder / name) for name in IGNORE_FILES if (folder / name).exists())
        for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
            path = Path(entry.path)
            below = path.relative_to(source)
            if _matches(below, patterns) or any(ignored(path) for ignored in ignoring):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from walk(path, ignoring)
            elif path.is_file():
                yield below

    yield from walk(source, ())


def check_size(sizes: dict[Path, int], limit: int, what: str) -> int:
    """The sum of file sizes in bytes.

    Raises:
        ConfigError: It is over the limit; the largest files are named.
    """
    total = sum(sizes.values())
    if total <= limit:
        return total
    largest = sorted(sizes.items(), key=lambda item: -item[1])[:SHOWN]
    listed = [f"  {size / 1e6:8.1f} MB  {path.as_posix()}" for path, size in largest]
    head = (
        f"{what}: {total / 1e6:.1f} MB in {len(sizes)} files would travel with the job, the limit is "
        f"{limit / 1e6:.1f} MB (--max-upload-mb). The largest:"
    )
    remedy = (
        "  leave them out with --exclude PATTERN or a .rayignore file; put models and large data on s3:// or on a "
        "disk that every node sees, and name them by that address in the config"
    )
    raise ConfigError([head, *listed, remedy])


def sizes_below(folder: Path) -> dict[Path, int]:
    """Size of every file below a folder."""
    return {path.relative_to(folder): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _matches(below: Path, patterns: Sequence[str]) -> bool:
    text = below.as_posix()
    return any(fnmatch(below.name, pattern) or fnmatch(text, pattern.rstrip("/")) for pattern in patterns)


def _ignored_by(file: Path) -> Callable[[Path], bool]:
    """Whether an ignore file names a path below its folder; in the words of git, as Ray itself reads them."""
    from pathspec import PathSpec

    check_plain(file, ConfigError)
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        spec = PathSpec.from_lines("gitwildmatch", lines)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file}: cannot be read: {error}") from error

    def ignored(path: Path) -> bool:
        text = path.relative_to(file.parent).as_posix()
        return bool(spec.match_file(f"{text}/" if path.is_dir() else text))

    return ignored
