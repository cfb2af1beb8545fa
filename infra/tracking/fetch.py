"""An adapter directory from wherever its files are: verified, resumed after an interruption, whole or absent.

Files arrive in a hidden directory beside the wanted one, named by the adapter, so that the next attempt finds
what an interrupted one has fetched. Knows neither MLflow nor S3; a `Fetch` does.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from elder.errors import AdapterError, InputError, UnreachableError
from elder.infra.stores.files import check_digest, sha256_of, sync_directory
from elder.infra.stores.keys import HIDDEN
from elder.json_text import parse_json
from elder.manifest import MANIFEST, listed_files
from elder.paths import user_path

UNFINISHED = ".unfinished"
LOCK_POLL_S = 0.1
NAME_CHARS = 32  # of the adapter's key; enough to tell adapters apart


# Writes a file of an adapter, by its name, to a path, after the bytes that are there already if the source can. Raises
# KeyError where there is no such file, UnreachableError when it broke off; what arrived is then in the path.
Fetch = Callable[[str, Path], None]


def check_target(directory: Path) -> Path:
    """The absolute path of a directory that may be made.

    Raises:
        InputError: It exists and is not empty.
    """
    directory = user_path(directory).absolute()
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise InputError(f"{directory} exists and is not empty. Name a new directory, or remove this one first.")
    return directory


def fetch_adapter(
    fetch: Fetch,
    directory: Path,
    label: str,
    key: str,
    manifest_sha256: str | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Path:
    """Fetch an adapter into a new directory, which appears whole and verified, or not at all.

    An attempt that is cut off leaves `.partial-KEY` beside the directory, and the next attempt continues from it.
    Two attempts at once take turns.

    Args:
        fetch: Fetches one file.
        directory: The directory to make.
        label: How errors name the adapter.
        key: Tells adapters apart; the sha256 of the manifest, if it is known.
        manifest_sha256: sha256 that the manifest must have, if known.
        on_wait: Called with a sentence when another process is fetching the same adapter.

    Raises:
        InputError: The directory is not empty.
        AdapterError: A file is missing or has another sha256; nothing is left.
        UnreachableError: The source broke off; the message says how much is kept for the next attempt.
    """
    directory = check_target(directory)
    partial = directory.parent / f"{HIDDEN}-{key[:NAME_CHARS]}"
    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with _turn(partial.with_suffix(".lock"), label, on_wait) as waited:
            if waited and _is_there(directory, manifest_sha256):
                return directory  # the one that we waited for has made it
            check_target(directory)
            partial.mkdir(exist_ok=True)
            with _kept_or_removed(partial):
                _fill(fetch, partial, label, manifest_sha256)
            os.rename(partial, directory)  # replaces an empty directory, and nothing else
            sync_directory(directory.parent)
    except OSError as error:
        raise UnreachableError(
            f"{directory} cannot be written: {error.strerror or error}. Name another one."
        ) from error
    return directory


def _fill(fetch: Fetch, partial: Path, label: str, manifest_sha256: str | None) -> None:
    """Bring every file of the manifest into the hidden directory; those that are there and right stay."""
    manifest = partial / MANIFEST
    if not (manifest.is_file() and manifest_sha256 and sha256_of(manifest).sha256 == manifest_sha256):
        manifest.unlink(missing_ok=True)
        _bring(fetch, MANIFEST, partial, None, label)
    for name, expected in _listed(manifest, label, manifest_sha256).items():
        path = partial / name
        if path.is_file() and sha256_of(path).sha256 == expected["sha256"]:
            continue
        path.unlink(missing_ok=True)
        path.parent.mkdir(parents=True, exist_ok=True)
        _bring(fetch, name, partial, expected, label)


def _bring(fetch: Fetch, name: str, partial: Path, expected: dict[str, Any] | None, label: str) -> None:
    """One file: continue where the last attempt ended; if that gives another content, once more from the start."""
    unfinished = partial / f"{name}{UNFINISHED}"
    for resumed in (True, False):
        if not resumed or expected is None:
            unfinished.unlink(missing_ok=True)
        begun = unfinished.exists()
        try:
            fetch(name, unfinished)
        except KeyError as error:
            if name == MANIFEST:
                raise AdapterError(_no_manifest(label)) from error
            raise AdapterError(f"{label} is damaged: {name} is missing. Pull another stage.") from error
        found = sha256_of(unfinished)
        if expected is None or found.sha256 == expected["sha256"]:
            os.replace(unfinished, partial / name)
            return
        if not begun:
            break
    raise AdapterError(
        f"{label} is damaged: {name} has another sha256 than the manifest says. Pull it again, or take another stage."
    )


def _listed(manifest: Path, label: str, manifest_sha256: str | None) -> dict[str, Any]:
    """The files that a manifest lists, each with its sha256."""
    if not manifest.is_file():
        raise AdapterError(_no_manifest(label))
    check_digest(sha256_of(manifest).sha256, manifest_sha256, f"{label}: {MANIFEST}")
    try:
        return listed_files(parse_json(manifest.read_bytes()))
    except ValueError as error:
        raise AdapterError(f"{label}: {MANIFEST} is damaged: {error}") from error


def _no_manifest(label: str) -> str:
    return f"{label} holds no {MANIFEST}, so it is not an adapter or was uploaded only in part."


def _is_there(directory: Path, manifest_sha256: str | None) -> bool:
    manifest = directory / MANIFEST
    return bool(manifest_sha256 and manifest.is_file() and sha256_of(manifest).sha256 == manifest_sha256)


@contextmanager
def _kept_or_removed(partial: Path) -> Iterator[None]:
    """Keep for the next attempt what arrived before the source broke off; remove damaged files."""
    try:
        yield
    except AdapterError:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    except UnreachableError as error:
        size = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if not size:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        kept = f"{size:,} bytes are kept in {partial}; the same command continues from there"
        raise UnreachableError(f"{error}\n{kept}") from error


@contextmanager
def _turn(path: Path, label: str, on_wait: Callable[[str], None] | None) -> Iterator[bool]:
    """Hold a lock file, which the system releases when a process dies; yields whether another one held it."""
    file, waited = _locked(path), False
    while file is None:
        if not waited and on_wait is not None:
            on_wait(f"another process is fetching {label}; waiting for it")
        waited = True
        time.sleep(LOCK_POLL_S)
        file = _locked(path)
    try:
        yield waited
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        file.close()


def _locked(path: Path) -> IO[bytes] | None:
    """The open lock file, or None while somebody else holds it."""
    file = path.open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(file.fileno()).st_ino == path.stat().st_ino:
            return file
    except (BlockingIOError, FileNotFoundError):
        pass  # held, or removed by the one that held it
    except BaseException:
        file.close()
        raise
    file.close()
    return None
