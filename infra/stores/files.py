"""Files that appear whole or not at all, and their digests. Knows nothing of stores or servers."""

from __future__ import annotations

import hashlib
import os
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from elder.errors import AdapterError, UnreachableError

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Written:
    """Size and sha256 of the content of a file."""

    size_bytes: int
    sha256: str


def sha256_of(data: bytes | Path) -> Written:
    """Size and sha256 of bytes or of a file, which is read in pieces."""
    hasher, size = hashlib.sha256(), 0
    for chunk in chunks_of(data):
        hasher.update(chunk)
        size += len(chunk)
    return Written(size, hasher.hexdigest())


def chunks_of(data: bytes | Path) -> Iterator[bytes]:
    """The content in pieces of at most 1 MiB (bytes in one piece)."""
    if isinstance(data, Path):
        with data.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
    else:
        yield data


def write_partial(directory: Path, chunks: Iterable[bytes]) -> tuple[Path, Written]:
    """Write the pieces to a new hidden file in `directory` and force it to the disk.

    The file is removed again when anything fails on the way. The caller renames, links or removes it.
    """
    partial = directory / f".partial-{uuid.uuid4().hex}"
    hasher, size = hashlib.sha256(), 0
    try:
        with partial.open("xb") as file:
            for chunk in chunks:
                file.write(chunk)
                hasher.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    return partial, Written(size, hasher.hexdigest())


def replace_file(path: Path, chunks: Iterable[bytes], expected: str | None, label: str) -> Written:
    """Make `path` hold the pieces: a reader sees the old content or the whole new one.

    Args:
        path: The file; missing parent directories are made.
        chunks: The content.
        expected: Its sha256, if known; checked before the file appears.
        label: How errors name the content.

    Raises:
        AdapterError: The content has another sha256; `path` is as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, written = write_partial(path.parent, chunks)
    try:
        check_digest(written.sha256, expected, label)
        os.replace(partial, path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)
    return written


def save_download(path: Path, chunks: Iterable[bytes], expected: str | None, label: str) -> None:
    """`replace_file` for content that comes out of a store.

    Raises:
        AdapterError: The content has another sha256; `path` is as it was.
        UnreachableError: The file cannot be written.
    """
    try:
        replace_file(path, chunks, expected, label)
    except OSError as error:
        raise UnreachableError(
            f"{label} cannot be copied to {path}: {error.strerror or error}. Choose a directory that can be written."
        ) from error


def sync_directory(directory: Path) -> None:
    """Force the names in a directory to the disk, so that a rename survives a power cut."""
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def check_digest(found: str, expected: str | None, label: str) -> None:
    """Compare two sha256, if one is expected.

    Raises:
        AdapterError: They differ: the content is damaged or is another one.
    """
    if expected is not None and found != expected:
        raise AdapterError(
            f"{label} is damaged: its sha256 is {found[:16]}..., expected {expected[:16]}.... "
            "Restore it from a copy, or remove it and let the run write it again."
        )
