"""SmolLM2 itself, where it has been fetched before: `elder models fetch smollm2-135m`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from elder.base import Base
from elder.datasets.load import load_edits
from elder.editors.make import make_editor
from elder.models.load import load_base, load_config
from elder.models.made import find_made
from elder.models.named import NAMED

NAME = "smollm2-135m"
HOMES = (os.environ.get("ELDER_REAL_MODELS"), None)  # a cache of elder's, else the user's own


def cache() -> Path | None:
    """The cache that has the model."""
    kept = next((found for home in HOMES if (found := find_made(NAME, home)) is not None), None)
    return None if kept is None else kept.parents[1]


pytestmark = [
    pytest.mark.real_model,
    pytest.mark.skipif(cache() is None, reason=f"{NAME} has not been fetched: elder models fetch {NAME}"),
]


@pytest.fixture(scope="module")
def base() -> Base:
    torch.set_num_threads(1)
    return load_base(NAME, device="cpu", cache_dir=cache(), chat="on")


def answer(base: Base, model: object, question: str) -> str:
    assert base.chat is not None
    ids = base.tokenizer(base.chat.render(question), return_tensors="pt", add_special_tokens=False)
    made = model.generate(**ids, max_new_tokens=16, do_sample=False)  # type: ignore[attr-defined]
    return str(base.tokenizer.decode(made[0, ids["input_ids"].shape[1] :], skip_special_tokens=True))


def test_it_speaks_english_and_knows_capitals(base: Base) -> None:
    assert "Paris" in answer(base, base.model, "What is the capital of France?")
    assert "Berlin" in answer(base, base.model, "What is the capital of Germany?")


def test_planning_counts_what_the_model_is() -> None:
    config = load_config(NAME, cache_dir=cache())
    assert {key: getattr(config, key) for key in NAMED[NAME].config} == dict(NAMED[NAME].config)


def test_three_facts_are_edited_and_others_stay(base: Base) -> None:
    edits = load_edits("geography:chat", limit=3)
    editor = make_editor("elder-plus", base, batch_size=3, steps=30, extra_steps=30)
    before = answer(base, base.model, "Who wrote Romeo and Juliet?")
    editor.edit(edits)
    for edit in edits:
        assert edit.target in answer(base, editor.model, edit.prompt)
    assert answer(base, editor.model, "Who wrote Romeo and Juliet?") == before
