"""Adapters and trained editors that an older version wrote load afterwards and say what they said.

`tests/data/make.py` says how they were made. The base model is built from names, so it is the same on every machine.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import elder
from elder.adapter_files import load_manifest
from elder.base import Base
from elder.edit import Edit
from elder.hyper.trained import load_trained
from elder.registry import METHODS, TRAINABLE
from elder.state import state_digest
from tests.data.make import EDITS, small_base
from tests.golden.streams import answers_of, one_thread, write_text

DATA = Path(__file__).resolve().parents[1] / "data"
SAID: dict[str, Any] = json.loads((DATA / "answers.json").read_text(encoding="utf-8"))

OLD = ("elder", "elder-plus", "rome", "memit", "emmet", "alphaedit", "ultraedit", "mend", "malmen")
TRAINED = ("mend", "malmen")


@pytest.fixture(scope="module")
def base() -> Base:
    return small_base()


def test_there_is_one_of_every_method_of_that_time() -> None:
    assert set(OLD) == {path.name for path in (DATA / "adapters").iterdir()} == set(SAID["answers"])
    assert set(OLD) <= set(METHODS)
    assert set(TRAINED) == {path.name for path in (DATA / "trained").iterdir()}
    assert set(TRAINED) <= set(TRAINABLE)


@pytest.mark.parametrize("method", OLD)
def test_an_old_adapter_says_what_it_said(base: Base, method: str) -> None:
    directory = DATA / "adapters" / method
    manifest = load_manifest(directory)
    editor = elder.load_edited(directory, base=base)
    assert (editor.method, editor.edits_applied) == (method, len(EDITS))
    assert state_digest(editor.state_dict()) == manifest["state_digest"]
    with one_thread():
        assert answers_of(editor, SAID["prompts"]) == SAID["answers"][method]
        with editor.disabled():
            assert answers_of(editor, SAID["prompts"]) != SAID["answers"][method]


@pytest.mark.parametrize("method", OLD)
def test_an_old_adapter_is_saved_as_it_was(base: Base, method: str, tmp_path: Path) -> None:
    """The same bytes of tensors, and the same manifest but for versions."""
    directory = DATA / "adapters" / method
    elder.load_edited(directory, base=base).save(tmp_path)
    old, new = (load_manifest(folder) for folder in (directory, tmp_path))
    since = new["options"].keys() - old["options"].keys()  # options that came later have their defaults
    assert {**new, "versions": None} == {
        **old,
        "versions": None,
        "options": old["options"] | {name: new["options"][name] for name in since},
    }


@pytest.mark.parametrize("method", OLD)
def test_an_old_adapter_can_be_continued(
    base: Base, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Statistics are read again from the text that the manifest names, networks from the trained editor."""
    write_text(tmp_path)
    (tmp_path / "trained").symlink_to(DATA / "trained")
    monkeypatch.chdir(tmp_path)
    editor = elder.load_edited(DATA / "adapters" / method, base=base)
    editor.edit([Edit("The colour of t9 is", "s9", subject="t9")])
    assert editor.edits_applied == len(EDITS) + 1


@pytest.mark.parametrize("method", TRAINED)
def test_an_old_trained_editor_loads(base: Base, method: str) -> None:
    trained = load_trained(DATA / "trained" / method)
    assert (trained.method, trained.steps) == (method, 2)
    editor = elder.make_editor(method, base, trained=str(DATA / "trained" / method))
    assert editor.options.layers == (1,)
