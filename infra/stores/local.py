"""A store in a directory: for a laptop, a shared file system, and the demo.

Knows nothing of S3 or of what the objects mean.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from elder.errors import UnreachableError
from elder.infra.stores.files import (
    check_digest,
    chunks_of,
    replace_file,
    save_download,
    sha256_of,
    sync_directory,
    write_partial,
)
from elder.infra.stores.keys import HIDDEN, check_key, check_prefix
from elder.paths import user_path
from elder.pipelines.protocols import ObjectInfo

NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


class LocalStore:
    """Objects as files below one directory, which is made by the first write.

    A write goes to a hidden file that is forced to the disk and then renamed; `create` links a complete
    hidden file, which the file system lets happen once. Both leave a whole object or none, even after a
    power cut.

    Args:
        directory: The root. Several processes, and several machines on a shared file system, may use it.
    """

    def __init__(self, directory: str | Path) -> None:
        self.root = user_path(directory).absolute()
        self.uri = str(self.root)

    def put(self, key: str, data: bytes | Path) -> ObjectInfo:
        """Write or replace an object; a Path is streamed from disk."""
        path = self._path(key)
        if isinstance(data, Path) and not data.is_file():
            raise FileNotFoundError(data)
        with self._explained("write", key):
            written = replace_file(path, chunks_of(data), None, key)
        return ObjectInfo(key, written.size_bytes, written.sha256)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if the key is free, atomically; False when it is taken."""
        path = self._path(key)
        with self._explained("write", key):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial, _ = write_partial(path.parent, [data])
            try:
                os.link(partial, path)
            except FileExistsError:
                return False
            finally:
                partial.unlink(missing_ok=True)
            sync_directory(path.parent)
        return True

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The content; with `sha256` it is verified.

        Raises:
            KeyError: No such object.
            AdapterError: The content has another sha256.
        """
        path = self._path(key)
        with self._explained("read", key):
            data = path.read_bytes()
        if sha256 is not None:
            check_digest(sha256_of(data).sha256, sha256, f"{self.uri}/{key}")
        return data

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Write the content to a file, which appears whole or not at all; verified like `get`."""
        if not self.exists(key):
            raise KeyError(key)
        save_download(Path(path), chunks_of(self._path(key)), sha256, f"{self.uri}/{key}")

    def exists(self, key: str) -> bool:
        """Whether the key holds an object."""
        path = self._path(key)
        with self._explained("read", key):
            return path.is_file()

    def delete(self, key: str) -> None:
        """Remove an object; removing an absent one is no error."""
        path = self._path(key)
        with self._explained("remove", key):
            if path.is_file():
                path.unlink(missing_ok=True)

    def list(self, prefix: str) -> list[str]:
        """All keys that begin with the prefix, sorted."""
        check_prefix(prefix)
        start = self.root / prefix.rpartition("/")[0]
        keys = []
        with self._explained("list", prefix):
            for directory, folders, files in os.walk(start, onerror=_raise_unless_absent):
                folders[:] = [name for name in folders if not name.startswith(HIDDEN)]
                shown = (name for name in files if not name.startswith(HIDDEN))
                keys += [Path(directory, name).relative_to(self.root).as_posix() for name in shown]
        return sorted(key for key in keys if key.startswith(prefix))

    def _path(self, key: str) -> Path:
        path = self.root / check_key(key)
        # A link inside the root may lead out of it; names alone do not tell.
        if not path.resolve().is_relative_to(self.root.resolve()):
            check_key(f"../{key}")
        return path

    @contextmanager
    def _explained(self, verb: str, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            absent = isinstance(error, FileNotFoundError | IsADirectoryError)
            absent = absent or (isinstance(error, NotADirectoryError) and self.root.is_dir())
            if verb == "read" and absent:
                raise KeyError(key) from error
            raise UnreachableError(self._sentence(verb, key, error)) from error

    def _sentence(self, verb: str, key: str, error: OSError) -> str:
        if verb == "write" and error.errno in NO_LINKS and error.filename2 is not None:
            remedy = "This file system has no hard links, which commits need; choose a directory on another one."
        elif error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "Free some space there, or choose another directory with tracking.store."
        else:
            remedy = "Make the directory readable and writable for this user, or choose another with tracking.store."
        return f"The store {self.uri} cannot {verb} '{key}': {error.strerror or error}. {remedy}"


def _raise_unless_absent(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        raise error
