"""What every store must do. Inherit `StoreContract` and give it a `store` and a `corrupt` fixture."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from elder.errors import AdapterError, InputError
from elder.infra.stores.files import sha256_of
from elder.infra.stores.open import probe_store
from elder.pipelines.protocols import Store

BAD_KEYS = ("", "/etc/passwd", "../escape", "a/../../escape", "a//b", "a/.", "a/", ".partial-1", "a\\b", "a\nb")


class StoreContract:
    """The behaviour that pipelines rely on."""

    @pytest.fixture
    def store(self) -> Store:
        """An empty store; subclasses override it."""
        raise NotImplementedError

    @pytest.fixture
    def corrupt(self) -> Callable[[str, bytes], None]:
        """A function that changes the content of a key behind the store's back; subclasses override it."""
        raise NotImplementedError

    def test_put_then_get(self, store: Store) -> None:
        info = store.put("runs/a/config.yaml", b"seed: 0\n")
        assert store.get("runs/a/config.yaml") == b"seed: 0\n"
        assert (info.key, info.size_bytes, info.sha256) == ("runs/a/config.yaml", 8, sha256_of(b"seed: 0\n").sha256)

    def test_put_replaces(self, store: Store) -> None:
        store.put("k", b"old and longer")
        store.put("k", b"new")
        assert store.get("k") == b"new"

    @pytest.mark.parametrize("size", [0, 1, 9 << 20])
    def test_put_file_of_any_size(self, store: Store, tmp_path: Path, size: int) -> None:
        source, copy = tmp_path / "source", tmp_path / "deep" / "copy"
        source.write_bytes(bytes(range(256)) * (size // 256) + b"x" * (size % 256))
        info = store.put("big/file.bin", source)
        store.download("big/file.bin", copy, info.sha256)
        assert info.size_bytes == size
        assert sha256_of(copy) == sha256_of(source)
        assert [path.name for path in copy.parent.iterdir()] == ["copy"]

    def test_absent_key_is_a_key_error(self, store: Store, tmp_path: Path) -> None:
        with pytest.raises(KeyError):
            store.get("absent")
        with pytest.raises(KeyError):
            store.download("absent", tmp_path / "file")
        assert not (tmp_path / "file").exists()
        assert not store.exists("absent")

    def test_a_folder_is_not_an_object(self, store: Store) -> None:
        store.put("a/b", b"1")
        assert not store.exists("a")
        with pytest.raises(KeyError):
            store.get("a")
        with pytest.raises(KeyError):
            store.get("a/b/c")

    def test_create_only_once(self, store: Store) -> None:
        assert store.create("stage/COMMIT.json", b"first") is True
        assert store.create("stage/COMMIT.json", b"second") is False
        assert store.get("stage/COMMIT.json") == b"first"

    def test_create_after_put_and_after_delete(self, store: Store) -> None:
        store.put("k", b"put")
        assert store.create("k", b"created") is False
        store.delete("k")
        assert store.create("k", b"created") is True
        assert store.get("k") == b"created"

    def test_one_winner_of_a_race(self, store: Store) -> None:
        racers, races = 8, 5
        start = Barrier(racers)

        def race(racer: int, race: int) -> bool:
            start.wait()
            return store.create(f"race/{race}", b"%d" % racer * 1000)

        with ThreadPoolExecutor(racers) as pool:
            for number in range(races):
                won = list(pool.map(race, range(racers), [number] * racers))
                assert won.count(True) == 1
                assert store.get(f"race/{number}") == b"%d" % won.index(True) * 1000

    def test_checksum_is_verified(self, store: Store, corrupt: Callable[[str, bytes], None], tmp_path: Path) -> None:
        info = store.put("weights", b"the right bytes")
        assert store.get("weights", info.sha256) == b"the right bytes"
        corrupt("weights", b"the wrong bytes")
        with pytest.raises(AdapterError, match="weights is damaged"):
            store.get("weights", info.sha256)
        with pytest.raises(AdapterError, match="weights is damaged"):
            store.download("weights", tmp_path / "weights", info.sha256)
        assert list(tmp_path.glob("weights")) == []

    def test_failed_download_leaves_the_old_file(self, store: Store, tmp_path: Path) -> None:
        store.put("weights", b"new")
        target = tmp_path / "down" / "weights"
        target.parent.mkdir()
        target.write_bytes(b"old")
        with pytest.raises(AdapterError):
            store.download("weights", target, "0" * 64)
        assert target.read_bytes() == b"old"
        assert len(list(target.parent.iterdir())) == 1

    def test_list_is_sorted_and_by_prefix(self, store: Store) -> None:
        for key in ("b/2", "a/10", "a/9", "ab/1", "a/sub/x", "c"):
            store.put(key, b"")
        assert store.list("") == ["a/10", "a/9", "a/sub/x", "ab/1", "b/2", "c"]
        assert store.list("a/") == ["a/10", "a/9", "a/sub/x"]
        assert store.list("a") == ["a/10", "a/9", "a/sub/x", "ab/1"]
        assert store.list("a/1") == ["a/10"]
        assert store.list("nothing/here") == []

    def test_delete(self, store: Store) -> None:
        store.put("a/b", b"1")
        store.delete("a/b")
        store.delete("a/b")
        store.delete("a")
        assert store.list("") == []
        assert not store.exists("a/b")

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_refused_keys(self, store: Store, key: str, tmp_path: Path) -> None:
        for action in (
            lambda: store.put(key, b""),
            lambda: store.create(key, b""),
            lambda: store.get(key),
            lambda: store.download(key, tmp_path / "file"),
            lambda: store.exists(key),
            lambda: store.delete(key),
        ):
            with pytest.raises(InputError, match="cannot name an object"):
                action()

    def test_odd_but_lawful_keys(self, store: Store) -> None:
        for key in ("with space", "ümlaut/日本", "per%20cent", "a+b&c=d", "..dots", "x..y"):
            store.put(key, key.encode())
            assert store.get(key).decode() == key
            assert key in store.list("")

    def test_pickled_store_sees_the_same_objects(self, store: Store) -> None:
        store.put("k", b"v")
        other = pickle.loads(pickle.dumps(store))
        assert other.uri == store.uri
        assert other.get("k") == b"v"
        assert other.create("k", b"w") is False

    def test_probe_passes_and_leaves_nothing(self, store: Store) -> None:
        assert probe_store(store) > 0
        assert store.list("") == []
