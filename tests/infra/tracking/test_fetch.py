"""Fetching an adapter directory: resumed, verified, whole or absent, one at a time. The source is a directory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from elder.errors import AdapterError, InputError, UnreachableError
from elder.infra.stores.files import sha256_of
from elder.infra.tracking.fetch import fetch_adapter
from tests.contracts.tracker import write_adapter

CONTENT = bytes(range(256)) * 40


class Folder:
    """A source that continues after what is there; it breaks off after `room` bytes, once."""

    def __init__(self, root: Path, room: int | None = None) -> None:
        self.root, self.room = root, room
        self.asked: list[tuple[str, int]] = []

    def __call__(self, name: str, path: Path) -> None:
        file = self.root / name
        if not file.is_file():
            raise KeyError(name)
        have = path.stat().st_size if path.exists() else 0
        self.asked.append((name, have))
        rest = file.read_bytes()[have:]
        cut, self.room = (self.room, None) if name != "manifest.json" else (None, self.room)
        with path.open("ab") as sink:
            sink.write(rest if cut is None else rest[:cut])
        if cut is not None:
            raise UnreachableError("the connection broke")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """Two files behind a manifest."""
    root = write_adapter(tmp_path / "source", CONTENT)
    (root / "codes.bin").write_bytes(b"codes")
    content = json.loads((root / "manifest.json").read_text())
    content["files"]["codes.bin"] = {"sha256": sha256_of(b"codes").sha256, "bytes": 5}
    (root / "manifest.json").write_text(json.dumps(content))
    return root


def digest(root: Path) -> str:
    return sha256_of(root / "manifest.json").sha256


def hidden(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir() if path.name.startswith("."))


def test_a_download_that_was_cut_goes_on_where_it_ended(adapter: Path, tmp_path: Path) -> None:
    source, place = Folder(adapter, room=100), tmp_path / "out" / "dir"
    with pytest.raises(UnreachableError, match=r"connection broke\n[\d,]+ bytes are kept in .*continues from there"):
        fetch_adapter(source, place, "ref", digest(adapter), digest(adapter))
    assert not place.exists()
    assert len(hidden(place.parent)) == 1
    fetch_adapter(source, place, "ref", digest(adapter), digest(adapter))
    assert source.asked == [
        ("manifest.json", 0),
        ("adapter.safetensors", 0),
        ("adapter.safetensors", 100),  # neither the manifest nor the first bytes again
        ("codes.bin", 0),
    ]
    assert sorted(path.name for path in place.iterdir()) == ["adapter.safetensors", "codes.bin", "manifest.json"]
    assert (place / "adapter.safetensors").read_bytes() == CONTENT
    assert hidden(place.parent) == []


def test_another_directory_takes_over_what_was_fetched(adapter: Path, tmp_path: Path) -> None:
    source = Folder(adapter, room=100)
    with pytest.raises(UnreachableError):
        fetch_adapter(source, tmp_path / "one", "ref", digest(adapter), digest(adapter))
    fetch_adapter(source, tmp_path / "two", "ref", digest(adapter), digest(adapter))
    assert ("adapter.safetensors", 100) in source.asked


def test_a_wrong_beginning_is_fetched_again_from_the_start(adapter: Path, tmp_path: Path) -> None:
    source = Folder(adapter, room=100)
    with pytest.raises(UnreachableError):
        fetch_adapter(source, tmp_path / "dir", "ref", digest(adapter), digest(adapter))
    (unfinished,) = tmp_path.glob(".partial-*/*.unfinished")
    unfinished.write_bytes(b"x" * 100)
    fetch_adapter(source, tmp_path / "dir", "ref", digest(adapter), digest(adapter))
    assert source.asked.count(("adapter.safetensors", 0)) == 2
    assert (tmp_path / "dir" / "adapter.safetensors").read_bytes() == CONTENT


@pytest.mark.parametrize("damage", ["flip", "absent", "manifest", "no manifest", "path"])
def test_damage_leaves_nothing(adapter: Path, tmp_path: Path, damage: str) -> None:
    right = digest(adapter)
    weights, manifest = adapter / "adapter.safetensors", adapter / "manifest.json"
    if damage == "flip":
        weights.write_bytes(b"x" + CONTENT[1:])
    elif damage == "absent":
        weights.unlink()
    elif damage == "manifest":
        manifest.write_text(manifest.read_text().replace("elder", "ELDER"))
    elif damage == "no manifest":
        manifest.unlink()
    else:
        content = json.loads(manifest.read_text())
        (tmp_path / "escaped").write_bytes(b"evil")
        content["files"]["../escaped"] = {"sha256": sha256_of(b"evil").sha256, "bytes": 4}
        manifest.write_text(json.dumps(content))
        right = digest(adapter)
    with pytest.raises(AdapterError, match="ref"):
        fetch_adapter(Folder(adapter), tmp_path / "out" / "dir", "ref", right, right)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_directory_that_is_not_empty_is_left_alone(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir" / "mine").write_text("mine")
    source = Folder(adapter)
    with pytest.raises(InputError, match="is not empty"):
        fetch_adapter(source, tmp_path / "dir", "ref", "k")
    assert source.asked == []
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UnreachableError, match="cannot be written"):
        fetch_adapter(source, tmp_path / "file" / "below", "ref", "k")


SLOW = """
import sys, time
from pathlib import Path
from elder.infra.tracking.fetch import fetch_adapter

def slow(name, path):
    root, gate = Path(sys.argv[1]), Path(sys.argv[4])
    if name != "manifest.json":
        with path.open("ab") as sink:
            sink.write((root / name).read_bytes()[:100])
        gate.with_suffix(".begun").touch()
        while not gate.exists():
            time.sleep(0.02)
        path.unlink()
    path.write_bytes((root / name).read_bytes())

fetch_adapter(slow, Path(sys.argv[2]), "ref", sys.argv[3], sys.argv[3])
"""


@pytest.fixture
def slow_process(adapter: Path, tmp_path: Path):  # type: ignore[no-untyped-def]
    """Start a process that fetches into `dir` and stops in the middle of the first file until the gate is there."""
    started: list[subprocess.Popen[bytes]] = []
    gate = tmp_path / "gate"

    def start() -> subprocess.Popen[bytes]:
        arguments = [sys.executable, "-c", SLOW, str(adapter), str(tmp_path / "dir"), digest(adapter), str(gate)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
        started.append(subprocess.Popen(arguments, env=environment))
        _until(gate.with_suffix(".begun").exists)
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(10)


def test_a_killed_process_leaves_no_directory_and_what_it_had_is_used(
    adapter: Path,
    tmp_path: Path,
    slow_process: Callable[[], subprocess.Popen[bytes]],
) -> None:
    process = slow_process()
    process.kill()
    process.wait(10)
    assert not (tmp_path / "dir").exists()
    source = Folder(adapter)
    fetch_adapter(source, tmp_path / "dir", "ref", digest(adapter), digest(adapter))
    assert source.asked == [("adapter.safetensors", 100), ("codes.bin", 0)]
    assert (tmp_path / "dir" / "adapter.safetensors").read_bytes() == CONTENT
    assert hidden(tmp_path) == []


def test_two_at_once_take_turns(
    adapter: Path,
    tmp_path: Path,
    slow_process: Callable[[], subprocess.Popen[bytes]],
) -> None:
    """The second waits, and has then nothing to do: the directory that it was to make is there."""
    process = slow_process()
    notes: list[str] = []

    def waiting(text: str) -> None:
        notes.append(text)
        (tmp_path / "gate").touch()

    source = Folder(adapter)
    assert fetch_adapter(source, tmp_path / "dir", "ref", digest(adapter), digest(adapter), waiting) == tmp_path / "dir"
    assert process.wait(30) == 0
    assert notes == ["another process is fetching ref; waiting for it"]
    assert source.asked == []
    assert hidden(tmp_path) == []


def _until(condition: Callable[[], bool], patience_s: float = 60) -> None:
    deadline = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)
