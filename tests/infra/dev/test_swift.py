"""OpenStack Swift as S3 server: the common contract of stores, real signatures, restarts, manners."""

from __future__ import annotations

import http.client
import importlib.util
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

import elder.infra.dev.swift_settings
from elder.errors import ConfigError, UnreachableError
from elder.infra.dev.swift_settings import missing_support, prepare
from elder.infra.stores.open import probe_store
from elder.infra.stores.s3 import S3Store
from elder.infra.stores.s3_settings import S3Settings
from tests.contracts.store import StoreContract
from tests.infra.swift import ROOT, SwiftServer, swift

RACES, RUNNERS = 10, 8


def store_on(server: SwiftServer) -> S3Store:
    return S3Store(f"s3://{server.make_bucket()}/some/prefix", S3Settings(endpoint_url=server.endpoint, attempts=2))


class TestStoreOnSwift(StoreContract):
    @pytest.fixture
    def store(self, swift_server: SwiftServer) -> S3Store:
        return store_on(swift_server)

    @pytest.fixture
    def corrupt(self, store: S3Store, swift_server: SwiftServer) -> Callable[[str, bytes], None]:
        raw = swift_server.client()

        def change(key: str, data: bytes) -> None:
            metadata = raw.head_object(Bucket=store.bucket, Key=store.prefix + key)["Metadata"]
            raw.put_object(Bucket=store.bucket, Key=store.prefix + key, Body=data, Metadata=metadata)

        return change


def test_a_wrong_secret_is_refused_with_the_remedy(swift_server: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_on(swift_server)
    store.put("k", b"1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    stranger = S3Store(store.uri, store.settings)
    with pytest.raises(UnreachableError, match=r"SignatureDoesNotMatch.*Check the access key, its secret"):
        stranger.get("k")
    with pytest.raises(UnreachableError, match="SignatureDoesNotMatch"):
        probe_store(stranger)


def test_an_unknown_access_key_is_refused(swift_server: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> None:
    store = store_on(swift_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "elder:nobody")
    with pytest.raises(UnreachableError, match="credentials"):
        S3Store(store.uri, store.settings).put("k", b"1")


def test_one_of_many_simultaneous_creators_wins(swift_server: SwiftServer) -> None:
    """What Swift does not promise by itself, and commits need."""
    store = store_on(swift_server)
    with ThreadPoolExecutor(RUNNERS) as pool:
        for race in range(RACES):
            key, gate = f"race/{race}", threading.Barrier(RUNNERS)

            def run(number: int, key: str = key, gate: threading.Barrier = gate) -> bool:
                gate.wait()
                return store.create(key, str(number).encode())

            won = [number for number, first in enumerate(pool.map(run, range(RUNNERS))) if first]
            assert [str(number).encode() for number in won] == [store.get(key)]


def test_it_comes_back_with_its_data_at_the_same_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with swift(tmp_path) as server:
        for name, value in server.access.items():
            monkeypatch.setenv(name, value)
        store, address = store_on(server), server.endpoint
        store.put("before", b"1")
        server.restart(how=signal.SIGKILL)
        assert (server.endpoint, store.get("before")) == (address, b"1")
        assert store.list("") == ["before"]
        assert not store.create("before", b"2")
        server.stop()
        with pytest.raises(UnreachableError, match="does not answer"):
            S3Store(store.uri, S3Settings(endpoint_url=address, attempts=1)).get("before")
    assert prepare(tmp_path).endpoint == address


def test_objects_that_a_killed_server_had_not_listed_yet_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the write of an object and its line in the listing: here the line is taken out afterwards."""
    with swift(tmp_path) as server:
        for name, value in server.access.items():
            monkeypatch.setenv(name, value)
        store = store_on(server)
        store.put("whole", b"1")
        large = tmp_path / "large"
        large.write_bytes(b"x" * (9 << 20))
        store.put("parts", large)
        store.put("gone", b"1")
        before = listed(server, store)
        server.stop(signal.SIGKILL)
        for database in (tmp_path / "node").rglob("containers/**/*.db"):
            forget_all_lines(database)
        server.start()
        assert listed(server, store) == before
        assert store.get("whole") == b"1"
        store.delete("gone")
        server.stop(signal.SIGKILL)
        server.start()
        assert store.list("") == ["parts", "whole"]


def listed(server: SwiftServer, store: S3Store) -> list[tuple[str, int, str]]:
    contents = server.client().list_objects_v2(Bucket=store.bucket)["Contents"]
    return [(entry["Key"], entry["Size"], entry["ETag"]) for entry in contents]


def forget_all_lines(database: Path) -> None:
    for pending in database.parent.glob("*.pending"):
        pending.unlink()
    with sqlite3.connect(database) as connection:
        connection.create_function("chexor", 3, lambda old, name, stamp: old)
        connection.execute("DELETE FROM object")
    connection.close()


def test_a_request_in_work_ends_well_when_it_is_told_to_stop(swift_server: SwiftServer) -> None:
    """Half of an upload before SIGTERM, half behind it."""
    bucket, client, half = swift_server.make_bucket(), swift_server.client(), b"x" * 100_000
    url = client.generate_presigned_url("put_object", {"Bucket": bucket, "Key": "k"})
    upload = http.client.HTTPConnection(f"127.0.0.1:{swift_server.site.port}", timeout=30)
    upload.putrequest("PUT", url.removeprefix(swift_server.endpoint))
    upload.putheader("Content-Length", str(2 * len(half)))
    upload.endheaders(half)
    time.sleep(0.3)  # it is being read
    stopper = threading.Thread(target=swift_server.stop)
    stopper.start()
    time.sleep(0.3)
    upload.send(half)
    assert upload.getresponse().status == 200
    stopper.join(60)
    assert swift_server.pid is None
    swift_server.start()
    assert client.head_object(Bucket=bucket, Key="k")["ContentLength"] == 2 * len(half)


def test_a_second_server_of_one_directory_and_a_taken_port_are_refused(
    swift_server: SwiftServer, tmp_path: Path
) -> None:
    assert "another process serves" in _serve(swift_server.site.directory)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        site = prepare(tmp_path, port=holder.getsockname()[1])
        assert f"port {site.port}" in _serve(site.directory)


def test_neither_logs_nor_messages_show_the_secret_and_strangers_cannot_read_it(swift_server: SwiftServer) -> None:
    client, directory = swift_server.client("wrong"), swift_server.site.directory
    with pytest.raises(ClientError):
        client.list_buckets()
    secret = swift_server.site.secret_key
    assert secret not in swift_server.log.read_text()
    assert secret not in repr(swift_server.site)
    holders = [path for path in directory.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert sorted(path.name for path in holders) == ["proxy.conf", "site.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}


def test_a_file_system_without_attributes_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(95, "Operation not supported")

    assert importlib.util.find_spec("swift"), "the tests of this file would all be left out"
    monkeypatch.setattr(elder.infra.dev.swift_settings.os, "setxattr", refuse)
    assert "takes no user extended attributes" in (missing_support(tmp_path) or "")


@pytest.mark.parametrize("access_key", ["other:user", "elder:", "elder", "elder:a b", "elder:a\nuser_x_y=z"])
def test_access_keys_of_another_form_are_refused(tmp_path: Path, access_key: str) -> None:
    with pytest.raises(ConfigError, match="access key must be elder:NAME"):
        prepare(tmp_path, access_key=access_key)


def test_settings_are_kept_and_can_be_replaced(tmp_path: Path) -> None:
    first = prepare(tmp_path)
    assert prepare(tmp_path) == first
    second = prepare(tmp_path, access_key="elder:me", secret_key="given")
    assert (second.port, second.hash_seed, second.access_key) == (first.port, first.hash_seed, "elder:me")
    assert prepare(tmp_path) == second
    (tmp_path / "site.json").write_text("{")
    with pytest.raises(ConfigError, match=r"site\.json is damaged"):
        prepare(tmp_path)


def _serve(directory: Path) -> str:
    command = [sys.executable, "-m", "elder.infra.dev.swift_server", str(directory)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 3, done.stderr
    return done.stderr
