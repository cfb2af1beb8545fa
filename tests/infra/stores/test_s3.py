"""The S3 store against a real HTTP server: the common contract, faults on the way, and refusals."""

from __future__ import annotations

import pickle
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from elder.errors import AdapterError, ConfigError, UnreachableError
from elder.infra.stores.open import open_store, probe_store, store_factory
from elder.infra.stores.s3 import S3Store
from elder.infra.stores.s3_settings import S3Settings
from tests.contracts.store import StoreContract
from tests.infra.servers import FaultyProxy, faulty_proxy, free_port

PATIENCE_S = 30


@pytest.fixture
def store(s3_endpoint: str, bucket: str) -> S3Store:
    return S3Store(f"s3://{bucket}/some/prefix", S3Settings(endpoint_url=s3_endpoint))


@pytest.fixture
def raw(s3_endpoint: str, s3_access: None) -> Any:
    """A client of the test's own, to look behind the store's back."""
    return boto3.client("s3", endpoint_url=s3_endpoint)


@pytest.fixture
def proxy(s3_endpoint: str) -> Iterator[FaultyProxy]:
    with faulty_proxy(s3_endpoint) as server:
        yield server


@pytest.fixture
def shaky(proxy: FaultyProxy, bucket: str) -> S3Store:
    """A store whose requests go through the faulty proxy."""
    return S3Store(f"s3://{bucket}", S3Settings(endpoint_url=proxy.url, attempts=4, addressing="path"))


class TestS3Store(StoreContract):
    @pytest.fixture
    def store(self, s3_endpoint: str, bucket: str) -> S3Store:
        return S3Store(f"s3://{bucket}/some/prefix", S3Settings(endpoint_url=s3_endpoint))

    @pytest.fixture
    def corrupt(self, store: S3Store, raw: Any) -> Callable[[str, bytes], None]:
        def change(key: str, data: bytes) -> None:
            metadata = raw.head_object(Bucket=store.bucket, Key=store.prefix + key)["Metadata"]
            raw.put_object(Bucket=store.bucket, Key=store.prefix + key, Body=data, Metadata=metadata)

        return change


class TestS3StoreWithoutTrailers(TestS3Store):
    """The same for servers that do not know CRC trailers."""

    @pytest.fixture
    def store(self, s3_endpoint: str, bucket: str) -> S3Store:
        return S3Store(f"s3://{bucket}", S3Settings(endpoint_url=s3_endpoint, checksums="when_required"))


def test_damage_is_found_without_being_told_the_digest(store: S3Store, raw: Any, tmp_path: Path) -> None:
    info = store.put("k", b"right")
    raw.put_object(Bucket=store.bucket, Key=store.prefix + "k", Body=b"wrong", Metadata={"sha256": info.sha256})
    with pytest.raises(AdapterError, match="damaged"):
        store.get("k")
    with pytest.raises(AdapterError, match="damaged"):
        store.download("k", tmp_path / "k")
    assert list(tmp_path.iterdir()) == []


def test_objects_of_others_can_be_read(store: S3Store, raw: Any) -> None:
    raw.put_object(Bucket=store.bucket, Key=store.prefix + "theirs", Body=b"x")
    assert store.get("theirs") == b"x"


def test_large_files_go_in_parts(shaky: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x" * (17 << 20))
    shaky.put("file", tmp_path / "file")
    assert proxy.seen.count("PUT passed") == 3
    assert shaky.list("") == ["file"]


def test_listings_of_several_pages(store: S3Store, raw: Any) -> None:
    for number in range(100):
        raw.put_object(Bucket=store.bucket, Key=f"{store.prefix}n/{number:05d}", Body=b"")
    assert store.list("n/") == [f"n/{number:05d}" for number in range(100)]


@pytest.mark.parametrize("fault", ["503", "500", "lost"])
def test_faults_that_pass_are_not_noticed(shaky: S3Store, proxy: FaultyProxy, fault: str) -> None:
    proxy.faults = [fault, fault]
    shaky.put("k", b"v")
    proxy.faults = [fault, fault]
    assert shaky.get("k") == b"v"
    proxy.faults = [fault, fault]
    assert shaky.list("") == ["k"]
    assert not proxy.faults


def test_an_answer_that_breaks_off_is_fetched_again(shaky: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    shaky.put("k", b"0123456789" * 100_000)
    proxy.faults = ["cut"]
    assert len(shaky.get("k")) == 1_000_000
    proxy.faults = ["cut"]
    shaky.download("k", tmp_path / "k")
    assert (tmp_path / "k").stat().st_size == 1_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["k"]


def test_only_the_rest_of_a_file_is_fetched(shaky: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    """Within one call after a broken connection, and in the next process behind what the last one left."""
    content = bytes(range(250)) * 2400
    shaky.put("k", content)
    proxy.asked.clear()
    proxy.faults = ["cut", "cut"]
    shaky.download_rest("k", tmp_path / "file")
    starts = [int(text.split("bytes=")[1].split("-")[0]) if "bytes=" in text else 0 for text in proxy.asked]
    assert (len(starts), starts[0], starts) == (3, 0, sorted(set(starts)))
    assert (tmp_path / "file").read_bytes() == content
    (tmp_path / "file").write_bytes(content[:1000])
    for _ in range(2):  # the second time nothing is missing
        shaky.download_rest("k", tmp_path / "file")
        assert (tmp_path / "file").read_bytes() == content
    assert "bytes=1000-" in proxy.asked[3]
    with pytest.raises(KeyError):
        shaky.download_rest("absent", tmp_path / "other")


def test_create_whose_answer_is_lost_still_wins(shaky: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = ["lost"]
    assert shaky.create("COMMIT.json", b"mine") is True
    assert shaky.create("COMMIT.json", b"mine") is False


def test_create_after_a_conflict_is_tried_again(shaky: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = ["409", "409"]
    assert shaky.create("COMMIT.json", b"mine") is True
    assert not proxy.faults


def test_faults_that_stay_are_told(shaky: S3Store, proxy: FaultyProxy) -> None:
    proxy.faults = ["503"] * 50
    with pytest.raises(UnreachableError, match=r"cannot write 'k'.*failed again and again"):
        shaky.put("k", b"v")


def test_refused_writes(shaky: S3Store, proxy: FaultyProxy, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    for data in (b"v", tmp_path / "file"):
        proxy.faults = ["403"]
        with pytest.raises(UnreachableError, match=r"cannot write 'k'.*s3:PutObject"):
            shaky.put("k", data)
    proxy.faults = ["403"] * 50
    with pytest.raises(UnreachableError, match="credentials do not allow"):
        probe_store(shaky)


def test_missing_bucket(s3_endpoint: str, s3_access: None) -> None:
    store = S3Store("s3://no-such-bucket-here/x", S3Settings(endpoint_url=s3_endpoint))
    for action in (
        lambda: store.put("k", b""),
        lambda: store.create("k", b""),
        lambda: store.get("k"),
        lambda: store.exists("k"),
        lambda: store.list(""),
    ):
        with pytest.raises(UnreachableError, match="bucket 'no-such-bucket-here' does not exist"):
            action()


def test_nobody_listens(s3_access: None) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = S3Store("s3://b", S3Settings(endpoint_url=endpoint, attempts=2))
    with pytest.raises(UnreachableError, match=rf"at {endpoint} cannot read 'k': the server does not answer"):
        store.get("k")


def test_a_server_that_hangs(s3_access: None) -> None:
    with socket.socket() as mute:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        endpoint = f"http://127.0.0.1:{mute.getsockname()[1]}"
        store = S3Store("s3://b", S3Settings(endpoint_url=endpoint, attempts=1, read_timeout_s=0.3))
        begun = time.monotonic()
        with pytest.raises(UnreachableError, match="does not answer"):
            store.list("")
        assert time.monotonic() - begun < PATIENCE_S


def test_no_credentials(s3_endpoint: str, s3_access: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    with pytest.raises(UnreachableError, match="no credentials were found"):
        S3Store("s3://b", S3Settings(endpoint_url=s3_endpoint)).get("k")
    with pytest.raises(UnreachableError, match="list-profiles"):
        S3Store("s3://b", S3Settings(endpoint_url=s3_endpoint, profile="absent")).get("k")


def test_pickles_hold_no_client_and_no_secret(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "the-secret-key")
    store.put("k", b"v")
    frozen = pickle.dumps(store)
    assert b"the-secret-key" not in frozen
    assert len(frozen) < 1000
    assert "the-secret-key" not in repr(store)
    factory = pickle.loads(pickle.dumps(store_factory(store.uri, store.settings)))
    assert factory().get("k") == b"v"


def test_a_server_that_overwrites_is_refused(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(S3Store, "create", lambda self, key, data: bool(self.put(key, data)))
    with pytest.raises(UnreachableError, match="does not honour conditional writes"):
        probe_store(store)


@pytest.mark.parametrize("uri", ["s3://", "s3:///prefix", "s3:/bucket"])
def test_bad_addresses(uri: str) -> None:
    with pytest.raises(ConfigError, match="s3://BUCKET"):
        S3Store(uri)


def test_settings_tell_all_problems_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        S3Settings(endpoint_url="host:9000", addressing="dns", checksums="never", attempts=0)
    assert len(caught.value.problems) == 4
    with pytest.raises(ConfigError, match=r"s3\.endpoint is unknown"):
        open_store("s3://b", {"endpoint": "x"})
