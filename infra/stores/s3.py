"""A store in an S3 bucket, Amazon's or a compatible one, by boto3.

The one file that imports boto3. Credentials come from the normal AWS chain of the process that runs;
they are neither kept, logged nor pickled. Knows nothing of what the objects mean.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import boto3
import botocore.session
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    IncompleteReadError,
    ResponseStreamingError,
)
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from elder.errors import AdapterError, ConfigError, UnreachableError
from elder.infra.stores.files import CHUNK_BYTES, check_digest, save_download, sha256_of
from elder.infra.stores.keys import check_key, check_prefix
from elder.infra.stores.s3_errors import ABSENT, CONFLICT, TAKEN, explain
from elder.infra.stores.s3_settings import S3Settings
from elder.pipelines.protocols import ObjectInfo

DIGEST, CREATOR = "sha256", "creator"  # names of our object metadata
MULTIPART_BYTES = 8 << 20
RESUME_BYTES = 1 << 16  # what arrives of a piece that broke off is lost
BEHIND_THE_END = ("InvalidRange", "416")
PAUSE_S = 0.1  # first pause between tries of what botocore itself does not repeat; doubles each time

T = TypeVar("T")


class S3Store:
    """Objects in one bucket below one prefix.

    Every object carries the sha256 of its content as metadata, which is checked at every read. `create`
    is a conditional write (If-None-Match: *). The object itself is small and picklable; each process
    makes its own client at first use.

    Args:
        uri: `s3://bucket` or `s3://bucket/prefix`.
        settings: How to reach the server.

    Raises:
        ConfigError: The address is not one of the two forms.
    """

    def __init__(self, uri: str, settings: S3Settings | None = None) -> None:
        bucket, _, prefix = uri.removeprefix("s3://").partition("/")
        prefix = prefix.strip("/")
        if not uri.startswith("s3://") or not bucket:
            raise ConfigError(f"tracking.store: expected s3://BUCKET or s3://BUCKET/PREFIX, found {uri!r}")
        if prefix:
            check_key(prefix)
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.settings = settings or S3Settings()
        self._reset()

    def put(self, key: str, data: bytes | Path) -> ObjectInfo:
        """Write or replace an object; a Path is streamed from disk, in parts when it is large."""
        name = self._name(key)
        content = sha256_of(data)
        metadata = {DIGEST: content.sha256}

        def upload(client: Any) -> None:
            if isinstance(data, Path):
                config = TransferConfig(multipart_threshold=MULTIPART_BYTES)
                client.upload_file(str(data), self.bucket, name, ExtraArgs={"Metadata": metadata}, Config=config)
            else:
                client.put_object(Bucket=self.bucket, Key=name, Body=data, Metadata=metadata)

        self._call("write", key, upload)
        return ObjectInfo(key, content.size_bytes, content.sha256)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if the key is free, atomically; False when it is taken."""
        name, creator = self._name(key), uuid.uuid4().hex
        metadata = {DIGEST: sha256_of(data).sha256, CREATOR: creator}

        def write(client: Any) -> bool:
            try:
                client.put_object(Bucket=self.bucket, Key=name, Body=data, Metadata=metadata, IfNoneMatch="*")
            except ClientError as error:
                if _code(error) not in TAKEN:
                    raise
                # The answer to our own write may have been lost on the way and the write sent again.
                head = client.head_object(Bucket=self.bucket, Key=name)
                return bool(head["Metadata"].get(CREATOR) == creator)
            return True

        return self._call("write", key, write)

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The content, verified against its own sha256 and against `sha256`.

        Raises:
            KeyError: No such object.
            AdapterError: The content is damaged or another one.
        """
        name, label = self._name(key), f"{self.uri}/{key}"

        def read(client: Any) -> bytes:
            answer = client.get_object(Bucket=self.bucket, Key=name)
            data: bytes = answer["Body"].read()
            found = sha256_of(data).sha256
            check_digest(found, answer["Metadata"].get(DIGEST), label)
            check_digest(found, sha256, label)
            return data

        return self._call("read", key, read)

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Write the content to a file, which appears whole or not at all; verified like `get`."""
        name, label = self._name(key), f"{self.uri}/{key}"

        def read(client: Any) -> None:
            answer = client.get_object(Bucket=self.bucket, Key=name)
            own = answer["Metadata"].get(DIGEST)
            if own and sha256:
                check_digest(own, sha256, label)  # before a byte is fetched
            save_download(Path(path), answer["Body"].iter_chunks(CHUNK_BYTES), sha256 or own, label)

        self._call("read", key, read)

    def download_rest(self, key: str, path: Path) -> None:
        """Append to a file what it lacks of an object, so that a download that broke off is continued; not verified.

        What arrives stays in the file whatever happens; whoever resumes a download verifies it when it is whole.
        """
        name = self._name(key)

        def read(client: Any) -> None:
            have = path.stat().st_size if path.exists() else 0
            try:
                answer = client.get_object(
                    Bucket=self.bucket, Key=name, **({"Range": f"bytes={have}-"} if have else {})
                )
            except ClientError as error:
                if _code(error) in BEHIND_THE_END:
                    return
                raise
            with path.open("ab") as file:
                for chunk in answer["Body"].iter_chunks(RESUME_BYTES):
                    file.write(chunk)

        self._call("read", key, read)

    def exists(self, key: str) -> bool:
        """Whether the key holds an object."""
        name = self._name(key)
        # A HEAD of an absent object cannot be told from one in an absent bucket; a listing can.
        return self._call("read", key, lambda client: _first_key(client, self.bucket, name) == name)

    def delete(self, key: str) -> None:
        """Remove an object; removing an absent one is no error."""
        name = self._name(key)
        self._call("remove", key, lambda client: client.delete_object(Bucket=self.bucket, Key=name))

    def list(self, prefix: str) -> list[str]:
        """All keys that begin with the prefix, sorted."""
        check_prefix(prefix)

        def names(client: Any) -> Iterator[str]:
            pages = client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix + prefix)
            for page in pages:
                for item in page.get("Contents", ()):
                    yield item["Key"].removeprefix(self.prefix)

        return self._call("list", prefix, lambda client: sorted(names(client)))

    def __repr__(self) -> str:
        return f"S3Store({self.uri!r})"

    def __getstate__(self) -> dict[str, Any]:
        return {"uri": self.uri, "bucket": self.bucket, "prefix": self.prefix, "settings": self.settings}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._client: Any = None
        self._owner = 0  # the process that made the client: sockets must not be shared after a fork

    def _name(self, key: str) -> str:
        return self.prefix + check_key(key)

    def _connect(self) -> Any:
        with self._lock:
            if self._client is None or self._owner != os.getpid():
                self._client, self._owner = _make_client(self.settings), os.getpid()
            return self._client

    def _call(self, verb: str, key: str, action: Callable[[Any], T]) -> T:
        """Run an action; repeat what botocore does not repeat itself; turn its errors into ours."""
        tries = Retrying(
            retry=retry_if_exception(_is_passing),
            stop=stop_after_attempt(self.settings.attempts),
            wait=wait_exponential(multiplier=PAUSE_S),
            reraise=True,
        )
        try:
            return tries(lambda: action(self._connect()))
        except FlexibleChecksumError as error:
            raise AdapterError(f"{self.uri}/{key} is damaged: its checksum is wrong. {error}") from error
        except (BotoCoreError, Boto3Error, ClientError) as error:
            code = _code(error) if isinstance(error, ClientError) else _cause(error)
            if verb == "read" and isinstance(error, ClientError) and code in ABSENT:
                raise KeyError(key) from error
            raise UnreachableError(self._sentence(verb, key, code, error)) from error

    def _sentence(self, verb: str, key: str, code: str, error: Exception) -> str:
        server = self.settings.endpoint_url or "Amazon S3"
        return explain(code, str(error), f"The store {self.uri} at {server} cannot {verb} '{key}'", self.bucket)


def make_bucket(bucket: str, settings: S3Settings, access_key: str, secret_key: str) -> None:
    """Make sure that a bucket is there, with keys that are given here and nothing from the environment.

    Raises:
        UnreachableError: The server does not answer or refuses it.
    """
    bare = botocore.session.Session(session_vars={"profile": (None, None, None, None)})  # whatever AWS_PROFILE says
    session = boto3.session.Session(access_key, secret_key, region_name=settings.region, botocore_session=bare)
    what = f"The bucket '{bucket}' at {settings.endpoint_url} cannot be made"
    try:
        _make_client(settings, session).create_bucket(Bucket=bucket)
    except ClientError as error:
        if _code(error) not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
            raise UnreachableError(explain(_code(error), str(error), what, bucket)) from error
    except BotoCoreError as error:
        raise UnreachableError(explain(_cause(error), str(error), what, bucket)) from error


def _make_client(settings: S3Settings, session: Any = None) -> Any:
    session = session or boto3.session.Session(profile_name=settings.profile, region_name=settings.region)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": settings.attempts},
        s3={"addressing_style": settings.addressing},
        request_checksum_calculation=settings.checksums,
        response_checksum_validation=settings.checksums,
        connect_timeout=settings.connect_timeout_s,
        read_timeout=settings.read_timeout_s,
        max_pool_connections=16,
    )
    return session.client("s3", endpoint_url=settings.endpoint_url, config=config)


def _first_key(client: Any, bucket: str, prefix: str) -> str | None:
    found = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1).get("Contents", ())
    return found[0]["Key"] if found else None


def _is_passing(error: BaseException) -> bool:
    """Whether an error may be gone at the next try: others wrote at the same time, or a body broke off."""
    if isinstance(error, ClientError):
        return _code(error) in CONFLICT
    return isinstance(error, ResponseStreamingError | IncompleteReadError)


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _cause(error: Exception) -> str:
    """The name of what went wrong; uploads wrap the real error in their own."""
    inner = error.__cause__ or error.__context__
    if isinstance(inner, ClientError):
        return _code(inner)
    return type(inner if isinstance(inner, BotoCoreError) else error).__name__
