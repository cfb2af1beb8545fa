"""A pointer from MLflow to an adapter that lies in the object store, because it is too large for MLflow's proxy.

In the place of the adapter's files lie its manifest and `pointer.json`: the address of the directory in the
store, sizes and sha256 of the files, and how to reach the server. No secrets. Knows neither MLflow nor S3.

Whoever may write to MLflow can write a pointer. So it is followed into the store that is configured here, on the server
that is configured here, and nowhere else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from elder.errors import AdapterError, InputError
from elder.infra.stores.files import sha256_of
from elder.infra.stores.open import open_store
from elder.infra.tracking.fetch import fetch_adapter
from elder.json_text import parse_json
from elder.manifest import MANIFEST, WEIGHTS, listed_files

POINTER = "pointer.json"
STORE_VARIABLE = "ELDER_STORE"
S3_ENDPOINTS = ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
FORMAT = 1
MIB = 1 << 20


@dataclass(frozen=True)
class Pointer:
    """Where an adapter is.

    Attributes:
        store: Address of the directory, such as `s3://bucket/prefix/runs/ID/stages/000007/ATTEMPT`.
        files: Name -> {"sha256", "bytes"}, the manifest included.
        s3: Fields of `infra.stores.s3_settings.S3Settings` that are not defaults.
    """

    store: str
    files: Mapping[str, Mapping[str, Any]]
    s3: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> str:
        """The content of pointer.json."""
        return json.dumps({"format": FORMAT, **vars(self)}, indent=2, sort_keys=True) + "\n"

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(int(entry["bytes"]) for entry in self.files.values())


def make_pointer(directory: Path, store: str, s3: Mapping[str, Any]) -> Pointer:
    """The pointer for an adapter directory, a copy of which lies at an address of a store."""
    names = [MANIFEST, *json.loads((directory / MANIFEST).read_text(encoding="utf-8"))["files"]]
    infos = {name: sha256_of(directory / name) for name in names}
    return Pointer(store, {name: {"sha256": info.sha256, "bytes": info.size_bytes} for name, info in infos.items()}, s3)


def read_pointer(path: Path) -> Pointer | None:
    """The pointer in a directory, or None when the adapter itself is there.

    Raises:
        AdapterError: The pointer is damaged or of another version.
    """
    file = path / POINTER
    if not file.is_file():
        return None
    try:
        content = parse_json(file.read_bytes())
        if content.pop("format") != FORMAT:
            raise ValueError("another format")
        pointer = Pointer(**content)
        if not isinstance(pointer.store, str) or not isinstance(pointer.s3, Mapping):
            raise TypeError("expected an address as 'store' and settings as 's3'")
        listed_files({"files": {name: entry for name, entry in pointer.files.items() if name != MANIFEST}})
        listed_files({"files": {WEIGHTS: pointer.files[MANIFEST]}})  # its own entry has the same form
        return pointer
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise AdapterError(f"{file} is damaged or was written by another version of elder: {error}") from error


def is_too_large(directory: Path, limit_mb: float) -> bool:
    """Whether the files of an adapter directory together are above the limit, in MiB."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file()) > limit_mb * MIB


def fetch_pointed(
    pointer: Pointer,
    directory: Path,
    label: str,
    s3: Mapping[str, Any] | None = None,
    on_wait: Callable[[str], None] | None = None,
    store: str | None = None,
) -> Path:
    """Fetch the adapter that a pointer means, as `infra.tracking.fetch.fetch_adapter` does.

    Args:
        pointer: Where it is.
        directory: The directory to make.
        label: How errors name the adapter.
        s3: Settings that go over those of the pointer, such as an endpoint that is another one from here.
        on_wait: As there.
        store: The configured store, besides the one that ELDER_STORE names.

    Raises:
        InputError: The pointer leads out of the configured store, or to another server.
        AdapterError: As there.
        UnreachableError: As there.
    """
    manifest = str(pointer.files[MANIFEST]["sha256"])
    source = StoreSource(pointer.store, trusted_settings(pointer, label, store, s3 or {}))
    return fetch_adapter(source, directory, f"{label} ({pointer.store})", manifest, manifest, on_wait)


def trusted_settings(pointer: Pointer, label: str, store: str | None, s3: Mapping[str, Any]) -> dict[str, Any]:
    """How to reach the store of a pointer, if it is one that is trusted here.

    Raises:
        InputError: It is not; the message says what to give.
    """
    configured = [place for place in (store, os.environ.get(STORE_VARIABLE)) if place]
    if not any(_is_within(pointer.store, place) for place in configured):
        raise InputError(
            f"{label} lies in {pointer.store}, and the store that is configured here is "
            f"{' or '.join(configured) or 'none'}. If you trust that place, name the store: --store URI, or export "
            f"{STORE_VARIABLE}=URI"
        )
    endpoint = s3.get("endpoint_url") or next((os.environ[name] for name in S3_ENDPOINTS if os.environ.get(name)), None)
    pointed = pointer.s3.get("endpoint_url")
    if pointed and not endpoint:
        raise InputError(
            f"{label} lies on the server {pointed}, and none is configured here. If you trust it, name it: "
            f"--s3-endpoint URL, or export {S3_ENDPOINTS[0]}=URL"
        )
    own = {key: value for key, value in pointer.s3.items() if key != "profile"}
    return {**own, **s3, "endpoint_url": endpoint}


def _is_within(address: str, store: str) -> bool:
    if ".." in PurePosixPath(address).parts:
        return False
    root = open_store(store).uri.rstrip("/")
    return f"{open_store(address).uri}/".startswith(f"{root}/")


class StoreSource:
    """The files of an adapter in a store; a file that broke off is continued where the store can do that."""

    def __init__(self, uri: str, s3: Mapping[str, Any]) -> None:
        self._store = open_store(uri, s3)

    def fetch(self, name: str, path: Path, size_bytes: int | None) -> None:
        """Download a file, going on behind the bytes that are there."""
        rest: Callable[[str, Path], None] | None = getattr(self._store, "download_rest", None)
        if rest is not None:
            rest(name, path)
            return
        path.unlink(missing_ok=True)
        self._store.download(name, path)
