"""The directory store: the common contract, and what is special about files."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from elder.errors import ConfigError, InputError, UnreachableError
from elder.infra.stores.local import LocalStore
from elder.infra.stores.open import open_store, store_factory
from tests.contracts.store import StoreContract


class TestLocalStore(StoreContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalStore:
        return LocalStore(tmp_path / "store")

    @pytest.fixture
    def corrupt(self, store: LocalStore) -> Callable[[str, bytes], None]:
        return lambda key, data: (store.root / key).write_bytes(data) and None


def test_unfinished_files_are_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/whole", b"1")
    (tmp_path / "a" / ".partial-left-by-a-killed-writer").write_bytes(b"half")
    assert store.list("") == ["a/whole"]


def test_a_write_that_breaks_off_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = LocalStore(tmp_path)
    store.put("k", b"old")

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UnreachableError, match=r"cannot write 'k'.*No space left.*Free some space"):
        store.put("k", b"new")
    with pytest.raises(UnreachableError, match="Free some space"):
        store.create("fresh", b"new")
    assert [path.name for path in tmp_path.iterdir()] == ["k"]
    assert store.get("k") == b"old"


def test_a_root_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    store = LocalStore(tmp_path / "file" / "store")
    for action in (lambda: store.put("k", b""), lambda: store.create("k", b""), lambda: store.get("k")):
        with pytest.raises(UnreachableError, match=r"tracking\.store"):
            action()


def test_a_file_system_without_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted", str(source), None, str(target))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(UnreachableError, match="no hard links"):
        LocalStore(tmp_path).create("k", b"")
    assert list(tmp_path.iterdir()) == []


def test_a_link_out_of_the_root_is_refused(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")
    store = LocalStore(tmp_path / "store")
    store.put("k", b"")
    (store.root / "way").symlink_to(outside)
    with pytest.raises(InputError, match="cannot name an object"):
        store.get("way/secret")
    with pytest.raises(InputError, match="cannot name an object"):
        store.put("way/new", b"")


def test_a_download_to_a_bad_place_names_it(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("k", b"1")
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreachableError, match=r"cannot be copied to .*file/k"):
        store.download("k", tmp_path / "file" / "k")


def test_putting_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        LocalStore(tmp_path).put("k", tmp_path / "absent")


def test_open_store_understands_directories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert open_store("here").uri == str(tmp_path / "here")
    assert open_store(tmp_path).uri == str(tmp_path)
    assert open_store(f"file://{tmp_path}/a%20b").uri == str(tmp_path / "a b")
    factory = store_factory("here")
    monkeypatch.chdir("/")
    assert factory().uri == str(tmp_path / "here")


@pytest.mark.parametrize("uri", ["gs://bucket/x", "http://host/x", "", "file://"])
def test_open_store_refuses_other_addresses(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.store"):
        open_store(uri)
