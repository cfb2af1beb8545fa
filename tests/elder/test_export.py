"""Merged models are what plain transformers loads, and say what the edited model says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer

from elder.editors.make import make_editor
from elder.errors import ConfigError, ModelError
from elder.export import export_merged
from tests.elder.editors.weights.test_locate import make
from tests.elder.tiny import EDITS, FAMILIES, OTHERS, logits_of, make_base, padded


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["rome", "memit", "alphaedit"])
def test_plain_transformers_says_what_the_edited_model_says(family: str, kind: str, tmp_path: Path) -> None:
    """GPT-2 stores its maps transposed and ties its embeddings."""
    base = make_base(family)
    digest = base.digest
    editor = make(kind, base)
    editor.edit(EDITS[:2])
    merged = export_merged(editor, tmp_path / "model")
    assert len(merged) == len(editor.layers)
    assert all(note.size > 0 and note.lost < 1e-3 for note in merged)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    inputs = padded(base, [*OTHERS, EDITS[0].prompt])
    wanted = logits_of(editor.model, inputs)
    assert (wanted - logits_of(base.model, inputs)).abs().max() > 1e-2
    keep = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits_of(model, inputs)[keep], wanted[keep], rtol=1e-4, atol=1e-5 * wanted.abs().max())
    ids = AutoTokenizer.from_pretrained(tmp_path / "model")(EDITS[0].prompt, return_tensors="pt")
    how = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 2}
    assert torch.equal(model.generate(**ids, **how), editor.model.generate(**ids, **how))
    assert editor.base_digest() == digest
    assert (tmp_path / "model").stat().st_mode & 0o555 == 0o555  # others may read it too


def test_an_update_that_vanishes_is_refused(tmp_path: Path) -> None:
    base = make_base("llama", torch.bfloat16)
    editor = make("memit", base)
    editor.edit(EDITS[:2])
    for delta in editor.deltas.of.values():
        delta.dense = delta.dense * 1e-6
    with pytest.raises(ModelError, match=r"would vanish in torch\.bfloat16"):
        export_merged(editor, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    assert export_merged(editor, tmp_path / "model", force=True)[0].lost > 0.5


@pytest.mark.parametrize("error", [OSError(28, "disk full"), SafetensorError("disk full")], ids=["os", "safetensors"])
def test_nothing_is_left_of_an_export_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    editor = make("memit", make_base("llama"))

    def full(*_: object, **__: object) -> None:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(type(editor.base.tokenizer), "save_pretrained", full)
        with pytest.raises(ConfigError, match="cannot be written: disk full"):
            export_merged(editor, tmp_path / "model")
    assert not list(tmp_path.iterdir())
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine").touch()
    with pytest.raises(ConfigError, match="not empty"):
        export_merged(editor, tmp_path / "model")
    patched = shutil.disk_usage(tmp_path)._replace(free=10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: patched)
    with pytest.raises(ConfigError, match="10 bytes free"):
        export_merged(editor, tmp_path / "other")


def test_methods_that_look_at_the_input_cannot_be_merged(tmp_path: Path) -> None:
    editor = make_editor("elder", make_base("llama"), layers=(1, 2, 3))
    with pytest.raises(ConfigError, match="elder cannot be merged: its edits act on the inputs"):
        export_merged(editor, tmp_path / "model")


def test_a_matrix_that_two_parts_share_is_not_changed_for_one_of_them(tmp_path: Path) -> None:
    base = make_base("llama")
    blocks = base.model.model.layers
    blocks[2].mlp.down_proj.weight = blocks[1].mlp.down_proj.weight
    editor = make("rome", base)
    editor.edit(EDITS[:1])
    with pytest.raises(ModelError, match=r"layers\.2\..* and .*layers\.1\..* are one matrix"):
        export_merged(editor, tmp_path / "model")
    assert not list(tmp_path.iterdir())
