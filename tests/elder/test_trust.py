"""An adapter from elsewhere: nothing in it is believed before it is checked, and what is wrong is said."""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from elder.adapter import load_adapter, load_edited
from elder.base import Base
from elder.editors.make import make_editor
from elder.errors import AdapterError, AdapterFileError, InputError
from elder.hyper.trained import load_trained
from elder.manifest import MANIFEST, WEIGHTS, listed_files, verify
from elder.state import pack_json, state_digest
from tests.data.make import small_base

DATA = Path(__file__).resolve().parents[1] / "data"


@pytest.fixture(scope="module")
def base() -> Base:
    return small_base()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A good adapter of `elder`."""
    return Path(shutil.copytree(DATA / "adapters" / "elder", tmp_path / "adapter"))


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def write_state(folder: Path, state: dict[str, torch.Tensor], digest: bool = True) -> None:
    """Other tensors, with a manifest that knows their file, and their digest or not."""
    save_file(state, folder / WEIGHTS)
    known = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()

    def edit(manifest: dict[str, Any]) -> None:
        manifest["files"][WEIGHTS]["sha256"] = known
        manifest["state_digest"] = state_digest(state) if digest else manifest["state_digest"]

    change(folder, edit)


def refusal(folder: Path, base: Base) -> str:
    with pytest.raises(AdapterFileError) as caught:
        load_adapter(folder, base)
    assert isinstance(caught.value, InputError)  # exit code 2
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_other_tensors_with_the_right_checksum_of_their_file_are_refused(folder: Path, base: Base) -> None:
    state = load_file(folder / WEIGHTS)
    name = next(name for name in state if state[name].is_floating_point())
    state[name] = state[name] + 1
    write_state(folder, state, digest=False)
    verify(folder)
    assert "its tensors are not those of its manifest (state_digest)" in refusal(folder, base)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite_are_refused(folder: Path, base: Base, value: float) -> None:
    state = load_file(folder / WEIGHTS)
    name = next(name for name in state if state[name].is_floating_point())
    state[name].view(-1)[0] = value
    write_state(folder, state)
    assert f"'{name}' is not finite" in refusal(folder, base)


def test_a_state_that_only_its_method_can_judge_is_refused_as_well(folder: Path, base: Base) -> None:
    state = load_file(folder / WEIGHTS)
    write_state(folder, {**state, "cursor": pack_json({"edits": "many"})})
    refusal(folder, base)


@pytest.mark.parametrize(
    "content", [b"", b"\x08\0\0\0\0\0\0\0{}", b"\xff" * 100, b"\x02\0\0\0\0\0\0\0{]", b"PK\x03\x04"]
)
def test_files_that_are_no_safetensors_are_refused(folder: Path, base: Base, content: bytes) -> None:
    (folder / WEIGHTS).write_bytes(content)
    change(folder, lambda m: m["files"][WEIGHTS].update(sha256=hashlib.sha256(content).hexdigest()))
    assert "is damaged" in refusal(folder, base)


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda m: m.update(options=[1]), "options: expected a section of keys, found a list"),
        (lambda m: m.update(method=3), "method: expected text, found int 3"),
        (lambda m: m.update(base="x"), "base: expected a section of keys, found str 'x'"),
        (lambda m: m["base"].pop("digest"), "base.digest: is missing"),
        (lambda m: m["base"].update(digest="x"), "base.digest: is no sha256"),
        (lambda m: m["base"].update(revision=4), "base.revision: expected text, found int 4"),
        (lambda m: m.update(files={}), f"it does not list {WEIGHTS}"),
        (lambda m: m.update(files=[]), "files: expected a section of keys"),
        (lambda m: m["files"][WEIGHTS].update(sha256=None), "sha256: expected text, found nothing"),
        (lambda m: m["files"][WEIGHTS].update(bytes=-1), "bytes: -1 is too small"),
        (lambda m: m.update(state_digest=["x"]), "state_digest: expected text, found a list"),
        (lambda m: m.update(edits=True), "edits: expected a whole number, found bool True"),
        (lambda m: m.update(kind={}), "kind: expected text"),
        (lambda m: m["options"].update(lr=1e308), "1e+308 is too large"),
        (lambda m: m["options"].update(lr=[]), "editor.lr: expected a number"),
        (lambda m: m["options"].update(nonsense=1), "has no such option"),
        (lambda m: m.update(method="nonsense"), "unknown method 'nonsense'"),
    ],
)
def test_values_of_a_wrong_kind_are_refused_by_their_keys(
    folder: Path, base: Base, edit: Callable[[dict[str, Any]], Any], said: str
) -> None:
    change(folder, edit)
    assert said in refusal(folder, base)


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "C:\\x", "a\\b", ".hidden", MANIFEST, "a\0", "é" * 128]
)
def test_a_manifest_lists_plain_names_only(folder: Path, base: Base, name: str) -> None:
    change(folder, lambda m: m["files"].update({name: {"sha256": "0" * 64, "bytes": 1}}))
    assert f"files: {name!r} is no plain name" in refusal(folder, base)
    with pytest.raises(ValueError, match="is no plain name"):
        listed_files({"files": {name: {"sha256": "0" * 64}, WEIGHTS: {"sha256": "0" * 64}}})


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"format": ' + "1" * 5000 + "}", '{"a": NaN}', '{"a": "\\ud83d"}', '{"a": 1, "a": 2}']
)
def test_manifests_that_no_parser_should_take_are_refused(folder: Path, base: Base, text: str) -> None:
    (folder / MANIFEST).write_text(text)
    assert f"{MANIFEST}' cannot be read" in refusal(folder, base)


def test_the_base_that_the_caller_names_is_loaded_without_a_word(folder: Path, base: Base) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_edited(folder, base=base).method == "elder"
    change(folder, lambda m: m["base"].update(source="https://u:hunter2@host/x/y"))
    with pytest.warns(UserWarning, match="names its base model") as said, pytest.raises(InputError) as caught:
        load_edited(folder)
    assert "hunter2" not in f"{said[0].message} {caught.value}"


def test_a_trained_editor_is_checked_in_the_same_way(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(DATA / "trained" / "mend", tmp_path / "trained"))
    assert load_trained(folder).method == "mend"
    state = load_file(folder / WEIGHTS)
    name = next(name for name in state if state[name].is_floating_point())
    write_state(folder, {**state, name: state[name] + 1}, digest=False)
    with pytest.raises(AdapterFileError, match="are not those of its manifest"):
        load_trained(folder)
    change(folder, lambda m: m.update(steps="many"))
    with pytest.raises(AdapterFileError, match="steps: expected a whole number"):
        load_trained(folder)


def test_a_trained_editor_whose_weights_are_not_finite_is_refused(tmp_path: Path, base: Base) -> None:
    folder = Path(shutil.copytree(DATA / "trained" / "mend", tmp_path / "trained"))
    make_editor("mend", base, trained=str(folder))
    state = load_file(folder / WEIGHTS)
    name = next(name for name in state if state[name].is_floating_point())
    state[name].view(-1)[0] = float("nan")
    write_state(folder, state)
    with pytest.raises(AdapterError, match=f"'{name}' is not finite"):
        make_editor("mend", base, trained=str(folder))
