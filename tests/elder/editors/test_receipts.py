"""What `edit` reports, and edits that are poorer than usual."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from elder.base import Base
from elder.edit import Edit
from elder.editors.make import make_editor
from elder.editors.mixture.mixture_editor import default_layers
from elder.errors import ConfigError, ModelError
from elder.mixture.samples import edit_rows
from elder.models.anatomy import clone_sharing_weights
from elder.models.load import wrap_base
from tests.elder.tiny import EDITS, OPTIONS, logits_of, padded


def test_a_receipt_has_one_outcome_an_edit_and_one_curve_a_batch(fresh: Callable[..., Any]) -> None:
    editor, calls = fresh(extra_steps=0) if fresh().method == "elder-plus" else fresh(), []
    receipt = editor.edit(EDITS[:5], progress=lambda *args: calls.append(args))
    assert [o.edit_id for o in receipt.outcomes] == [e.id for e in EDITS[:5]]
    assert all(o.accepted and math.isfinite(o.final_loss) for o in receipt.outcomes)
    assert [len(curve) for curve in receipt.losses] == [8, 8, 8]
    assert [(done, of) for done, of, _ in calls] == [(2, 5), (4, 5), (5, 5)]
    assert [loss for *_, loss in calls] == [curve[-1] for curve in receipt.losses]
    assert receipt.seconds > 0


def test_outcomes_are_mean_token_losses_of_the_last_step(base: Base, method: str) -> None:
    """With a learning rate too small to matter they are the base model's own losses."""
    options = {**OPTIONS[method], "lr": 1e-12, "batch_size": 3}
    receipt = make_editor(method, base, **options).edit(EDITS[:3])
    for edit, outcome in zip(EDITS[:3], receipt.outcomes, strict=True):
        rows = edit_rows(base.tokenizer, [edit], "eos")
        if method == "elder-plus":  # prefixed prompts are rows too; their loss is not asked for here
            continue
        total = count = 0.0
        for row in rows:
            ids = torch.tensor([row.prompt + row.answer])
            logits = base.model(input_ids=ids).logits[0, len(row.prompt) - 1 : -1]
            total += float(F.cross_entropy(logits, torch.tensor(row.answer), reduction="sum"))
            count += len(row.answer)
        assert outcome.final_loss == pytest.approx(total / count, abs=1e-4)
    if method == "elder-plus":
        assert sum(o.final_loss for o in receipt.outcomes) / 3 == pytest.approx(receipt.losses[0][0], rel=0.2)


def test_nothing_to_apply_is_an_error(fresh: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="no edits"):
        fresh().edit([])


def test_edits_are_learnt_one_at_a_time_without_rephrases_and_without_subject(
    fresh: Callable[..., Any], base: Base, method: str
) -> None:
    more = {"rank": 8, "prefixes": 0} if method == "elder-plus" else {}
    editor = fresh(batch_size=1, steps=60, lr=1e-2, **more)
    bare = [Edit(e.prompt, e.target) for e in EDITS[:3]]
    receipt = editor.edit(bare)
    assert len(receipt.losses) == 3
    assert all(curve[-1] < 0.3 * curve[0] for curve in receipt.losses)
    inputs = padded(base, [bare[-1].prompt])
    assert editor.in_scope(inputs["input_ids"], inputs["attention_mask"]).all()
    said = editor.model.generate(**inputs, max_new_tokens=len(bare[-1].target) + 1, do_sample=False)
    assert base.tokenizer.decode(said[0, inputs["input_ids"].shape[1] :]) == f" {bare[-1].target}"


def test_a_single_edit_of_one_word_works(fresh: Callable[..., Any]) -> None:
    receipt = fresh(batch_size=1).edit([Edit("A", "b")])
    assert receipt.losses[0][-1] < receipt.losses[0][0]


def test_the_layers_and_targets_of_this_model_are_the_defaults_of_the_paper(base: Base, family: str) -> None:
    editor = make_editor("elder", base)
    names = [name for name, module in editor._clone.named_modules() if module in editor.targets]
    assert editor.layers == (2, 3)
    assert editor.query_layer == 1
    ending = "mlp.down_proj" if family == "llama" else "mlp.c_fc"
    assert all(name.endswith(ending) for name in names)
    assert all(f".{layer}." in name for layer, name in zip(editor.layers, names, strict=True))


def test_default_layers_are_the_papers_in_the_papers_model() -> None:
    assert default_layers(32) == (21, 22, 23, 24, 25, 26)


@pytest.mark.parametrize("depth", [2, 3, 4, 6, 8, 12, 16, 24, 48, 80])
def test_default_layers_exist_and_leave_room_for_the_query(depth: int) -> None:
    layers = default_layers(depth)
    assert layers == tuple(range(layers[0], layers[-1] + 1))
    assert layers[0] >= 1
    assert layers[-1] < depth
    assert 1 <= len(layers) <= 6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": (2, 4)}, r"blocks 0 to 3.*no block 4"),
        ({"layers": (0, 1)}, r"query_layer.*below the first edited one, 0, found -1; leave block 0 out"),
        ({"query_layer": 2}, r"query_layer.*below the first edited one, 2, found 2"),
    ],
)
def test_layers_that_do_not_exist_or_cannot_be_routed_are_refused(
    base: Base, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        make_editor("elder", base, **options)


def test_a_model_of_one_block_has_nothing_to_edit_above_a_query(base: Base) -> None:
    model = clone_sharing_weights(base.model)
    parts = model.model if hasattr(model, "model") else model.transformer
    name = "layers" if hasattr(parts, "layers") else "h"
    setattr(parts, name, getattr(parts, name)[:1])
    model.config = copy.deepcopy(model.config)
    model.config.num_hidden_layers = 1
    with pytest.raises(ModelError, match=r"editor\.layers: a model of 1 block"):
        make_editor("elder", wrap_base(model, base.tokenizer, "one"))


def test_notes_say_how_much_is_stored(fresh: Callable[..., Any], method: str) -> None:
    editor = fresh()
    notes = editor.edit(EDITS[:3]).notes
    if method == "elder":
        assert notes["labels"] == 3
        assert 1 <= notes["codes"] <= 6
        assert editor.codes.recorded == 6  # a prompt and one rephrase for each edit
    else:
        assert notes["ledger_rows"] == 3 * 4  # and two prompts behind a sentence
        assert (notes["subject_threshold"], notes["answer_threshold"]) == editor.thresholds


def test_embedded_inputs_are_routed_like_tokens(edited: Any, base: Base) -> None:
    inputs = padded(base, [e.prompt for e in EDITS])
    wanted = logits_of(edited.model, inputs)
    embedded = {**inputs, "inputs_embeds": edited.model.get_input_embeddings()(inputs["input_ids"])}
    del embedded["input_ids"]
    assert torch.equal(logits_of(edited.model, embedded), wanted)
