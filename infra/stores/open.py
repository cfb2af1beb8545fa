"""From an address to a store, and the question whether a store can be trusted with commits.

The one place that decides which implementation serves which address. boto3 is imported only when an
s3 address is opened.
"""

from __future__ import annotations

import contextlib
import functools
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from elder.errors import AdapterError, ConfigError, UnreachableError
from elder.infra.stores.s3_settings import S3Settings
from elder.pipelines.protocols import Store


def open_store(uri: str | Path, settings: S3Settings | Mapping[str, Any] | None = None, **options: Any) -> Store:
    """The store at an address; nothing is touched before it is used.

    Args:
        uri: A directory, `file:///DIR`, or `s3://bucket/prefix`.
        settings: How to reach an S3 server; ignored for directories.
        **options: Single fields of `S3Settings`, over those of `settings`.

    Raises:
        ConfigError: The address or a setting is not understood.
    """
    text = str(uri)
    scheme = urlsplit(text).scheme if "://" in text else ""
    if scheme == "s3":
        from elder.infra.stores.s3 import S3Store

        return S3Store(text, _merged(settings, options))
    if scheme not in ("", "file"):
        raise ConfigError(
            f"tracking.store: cannot open {text!r}: expected a directory, file:///DIR or s3://BUCKET/PREFIX"
        )
    directory = unquote(urlsplit(text).path) if scheme else text
    if not directory:
        raise ConfigError("tracking.store: the directory is empty; expected a directory or s3://BUCKET/PREFIX")
    from elder.infra.stores.local import LocalStore

    return LocalStore(directory)


def store_factory(
    uri: str | Path, settings: S3Settings | Mapping[str, Any] | None = None, **options: Any
) -> Callable[[], Store]:
    """A picklable callable without arguments that opens the store again in another process.

    A relative directory is made absolute here, because workers run in another working directory.
    """
    store = open_store(uri, settings, **options)
    return functools.partial(open_store, store.uri, _merged(settings, options))


def probe_store(store: Store) -> float:
    """Try what a run needs before it starts: write, read back, create once and be refused the second time.

    The probe objects are removed again.

    Returns:
        Seconds that the round trip took.

    Raises:
        UnreachableError: The store does not answer, refuses to write, gives back something else, or lets a
            second conditional create through, so that two drivers could both commit one stage.
    """
    key, begun = f"probe-{uuid.uuid4().hex}", time.perf_counter()
    payload = uuid.uuid4().bytes * 64
    try:
        info = store.put(key, payload)
        if store.get(key, info.sha256) != payload:
            raise UnreachableError(f"The store {store.uri} gave back other bytes than it was given. Choose another.")
        first, second = store.create(f"{key}-once", b"1"), store.create(f"{key}-once", b"2")
        kept = store.get(f"{key}-once")
    except (KeyError, AdapterError) as error:
        raise UnreachableError(f"The store {store.uri} lost or damaged what was just written: {error}") from error
    finally:
        for name in (key, f"{key}-once"):
            _remove_quietly(store, name)
    if not first or second or kept != b"1":
        raise UnreachableError(
            f"The store {store.uri} does not honour conditional writes (If-None-Match): a second create "
            f"{'was accepted' if second else 'misbehaved'}. Commits would not be safe; use another store."
        )
    return time.perf_counter() - begun


def _remove_quietly(store: Store, key: str) -> None:
    with contextlib.suppress(UnreachableError):  # the first failure is the one to report
        store.delete(key)


def _merged(settings: S3Settings | Mapping[str, Any] | None, options: Mapping[str, Any]) -> S3Settings:
    given: dict[str, Any] = vars(settings).copy() if isinstance(settings, S3Settings) else dict(settings or {})
    return S3Settings.from_mapping({**given, **options})
