"""Adapter directories: what is written, and what is refused with the file's name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elder import manifest as manifests
from elder.adapter import load_adapter, load_edited
from elder.adapter_files import FORMAT, MANIFEST, WEIGHTS, load_manifest, save_adapter, verify
from elder.base import Base, Editor
from elder.errors import AdapterError
from elder.state import state_digest
from tests.elder.tiny import EDITS, logits_of, make_model, make_tokenizer, padded


@pytest.fixture
def editor(edited_once: Callable[..., Editor], method: str) -> Editor:
    return edited_once(method, "llama")


@pytest.fixture
def base(base_of: Callable[..., Base]) -> Base:
    return base_of("llama")


@pytest.fixture
def folder(editor: Editor, tmp_path: Path) -> Path:
    save_adapter(tmp_path / "adapter", editor, extra={"stage": 3})
    return tmp_path / "adapter"


def change(folder: Path, **entries: Any) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest.update(entries)
    (folder / MANIFEST).write_text(json.dumps({k: v for k, v in manifest.items() if v is not ...}))


def test_the_manifest_says_what_it_is_and_what_it_belongs_to(editor: Editor, base: Base, folder: Path) -> None:
    manifest = load_manifest(folder)
    assert manifest["format"] == FORMAT
    assert manifest["method"] == editor.method
    assert manifest["options"]["steps"] == 8
    assert manifest["base"]["digest"] == base.digest
    assert manifest["base"]["source"] == "tiny:llama"
    assert manifest["base"]["architecture"] == "LlamaForCausalLM"
    assert manifest["base"]["dtype"] == "float32"
    assert manifest["state_digest"] == state_digest(editor.state_dict())
    assert manifest["files"][WEIGHTS]["bytes"] == (folder / WEIGHTS).stat().st_size
    assert manifest["stage"] == 3
    assert manifest["edits"] == editor.edits_applied == 4
    assert verify(folder) == manifest
    assert sorted(p.name for p in folder.iterdir()) == [WEIGHTS, MANIFEST]


def test_saving_again_replaces_and_equal_states_are_equal_files(editor: Editor, folder: Path, tmp_path: Path) -> None:
    bytes_before = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(b"old")
    editor.save(folder)
    assert (folder / WEIGHTS).read_bytes() == bytes_before
    verify(folder)


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing"])
def test_damaged_files_are_refused_by_name(folder: Path, base: Base, damage: str) -> None:
    path = folder / WEIGHTS
    content = bytearray(path.read_bytes())
    if damage == "missing":
        path.unlink()
    else:
        content[-1] ^= 1
        path.write_bytes(content if damage == "flipped" else content[:-9])
    words = "is missing" if damage == "missing" else "is damaged"
    for attempt in (verify, lambda d: load_adapter(d, base)):
        with pytest.raises(AdapterError, match=words) as caught:
            attempt(folder)
        assert str(path) in str(caught.value)


def test_a_directory_without_manifest_is_no_adapter_and_half_written_ones_have_none(
    editor: Editor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("elder.adapter_files.write_tensors", die)
    with pytest.raises(KeyboardInterrupt):
        editor.save(folder)
    with pytest.raises(AdapterError, match=r"is no adapter: it has no manifest\.json") as caught:
        load_manifest(folder)
    assert str(folder) in str(caught.value)
    with pytest.raises(AdapterError, match="is no adapter"):
        load_manifest(folder / "nowhere")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe\x00", b"[]", b'"text"', b"3"])
def test_manifests_that_are_no_manifest_are_refused_by_name(folder: Path, base: Base, content: bytes) -> None:
    (folder / MANIFEST).write_bytes(content)
    with pytest.raises(AdapterError, match=MANIFEST):
        load_adapter(folder, base)


@pytest.mark.parametrize("entry", ["files", "base", "method", "options"])
def test_manifests_that_lack_an_entry_are_refused_by_name(folder: Path, base: Base, entry: str) -> None:
    change(folder, **{entry: ...})
    with pytest.raises(AdapterError, match=f"{MANIFEST}.*{entry}"):
        load_adapter(folder, base)


@pytest.mark.parametrize("number", [FORMAT + 1, None, "1"])
def test_other_formats_are_refused(folder: Path, base: Base, number: Any) -> None:
    change(folder, format=number)
    with pytest.raises(AdapterError, match=f"has format {number}.*reads format {FORMAT}"):
        load_adapter(folder, base)


def test_other_bases_are_refused_by_name_and_digest(folder: Path, base_of: Callable[..., Base], base: Base) -> None:
    for other in (base_of("gpt2"), base_of("llama", torch.bfloat16)):
        with pytest.raises(AdapterError, match="was made on tiny:llama") as caught:
            load_adapter(folder, other)
        assert base.digest[:12] in str(caught.value)
        assert other.digest[:12] in str(caught.value)
    assert load_adapter(folder, base).method == load_manifest(folder)["method"]


def test_a_file_is_hashed_once_a_load(folder: Path, base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[Path] = []
    fingerprint = manifests.fingerprint
    monkeypatch.setattr(manifests, "fingerprint", lambda path: hashed.append(path) or fingerprint(path))
    assert load_adapter(folder, base).edits_applied == 4
    assert hashed == [folder / WEIGHTS]


def test_load_edited_loads_the_base_that_the_manifest_names(method: str, tmp_path: Path) -> None:
    from elder.editors.make import make_editor
    from elder.models.load import load_base
    from tests.elder.tiny import OPTIONS

    make_model("llama").save_pretrained(tmp_path / "model")
    make_tokenizer().save_pretrained(tmp_path / "model")
    base = load_base(str(tmp_path / "model"), dtype="bfloat16", device="cpu")
    editor = make_editor(method, base, **OPTIONS[method])
    editor.edit(EDITS[:2])
    editor.save(tmp_path / "adapter")
    inputs = padded(base, [e.prompt for e in EDITS])
    wanted = logits_of(editor.model, inputs)
    with pytest.warns(UserWarning, match=f"names its base model, '{tmp_path / 'model'}', which is loaded now"):
        named = load_edited(tmp_path / "adapter", device="cpu")
    for edited in (
        named,
        load_edited(str(tmp_path / "adapter"), base=base),
        load_edited(tmp_path / "adapter", base=str(tmp_path / "model"), device="cpu"),
    ):
        assert edited.model.dtype == torch.bfloat16
        assert torch.equal(logits_of(edited.model, inputs), wanted)
    with pytest.raises(AdapterError, match="was made on"):
        load_edited(tmp_path / "adapter", base=str(tmp_path / "model"), dtype="float32", device="cpu")
