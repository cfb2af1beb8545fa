"""E17: training on cached prefixes equals training through the whole model, losses and gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elder.base import Base
from elder.editors.make import make_editor
from elder.mixture.route import Plan
from elder.mixture.samples import Row, RowBatch, edit_rows
from tests.elder.tiny import EDITS, OPTIONS, states_of

ROWS = 5  # of unequal prompt and answer lengths


@pytest.fixture
def editor(base: Base, method: str) -> Any:
    """An editor whose maps are not zero any more."""
    made = make_editor(method, base, **OPTIONS[method])
    with torch.no_grad():
        for mixture in made.mixtures:
            mixture.b.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return made


@pytest.fixture
def rows(base: Base) -> list[Row]:
    return edit_rows(base.tokenizer, EDITS, "eos")[:ROWS]


def random_gates(editor: Any) -> Tensor:
    """(L, B, N)"""
    o = editor.options
    return torch.rand(len(editor.layers), ROWS, o.experts, generator=torch.Generator().manual_seed(1))


def whole_forward(editor: Any, batch: RowBatch, gates: Tensor, start: Tensor | None) -> Tensor:
    """Summed answer losses (B,) of a plain pass over the whole rows."""
    places = torch.arange(batch.input_ids.shape[1])
    keep = None if start is None else places[None] >= start[:, None]
    with editor.imposing(Plan(gates, keep=keep)):
        logits = editor.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
        ).logits
    width = batch.answer_width
    picked = logits[:, -width - 1 : -1].float()
    losses = []
    for row, labels in zip(picked, batch.labels, strict=True):
        real = labels >= 0
        losses.append(F.cross_entropy(row[real], labels[real], reduction="sum"))
    return torch.stack(losses)


def gradients(editor: Any, losses: Tensor, gates: Tensor) -> Sequence[Tensor]:
    return torch.autograd.grad(losses.sum(), [*editor.mixtures.parameters(), gates])


def assert_same_training(editor: Any, fast: Tensor, slow: Tensor, gates: Tensor) -> None:
    torch.testing.assert_close(fast, slow, atol=1e-4, rtol=1e-5)
    wanted = gradients(editor, slow, gates)
    assert all(g.abs().max() > 1e-3 for g in wanted)
    for one, other in zip(gradients(editor, fast, gates), wanted, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("method", ["elder"], indirect=True)
def test_e17_training_above_a_cached_prefix_equals_training_through_the_whole_model(
    editor: Any, rows: list[Row]
) -> None:
    (part,) = editor.trainer.prepare(rows)
    gates = random_gates(editor).requires_grad_()
    fast = editor.trainer.answer_losses(part, gates)
    assert_same_training(editor, fast, whole_forward(editor, part.rows, gates, None), gates)


@pytest.mark.parametrize("method", ["elder-plus"], indirect=True)
def test_e17_training_on_the_tail_equals_training_through_the_whole_model(editor: Any, rows: list[Row]) -> None:
    (part,) = editor.tails.prepare(rows)
    assert part.hidden.shape[1] < part.rows.input_ids.shape[1] - 5  # it is only the tail that is run
    gates = random_gates(editor).requires_grad_()
    fast = editor.tails.answer_losses(part, gates)
    assert_same_training(editor, fast, whole_forward(editor, part.rows, gates, part.rows.key_positions), gates)


def test_e17_correcting_whole_prompts_equals_training_through_the_whole_model(base: Base, rows: list[Row]) -> None:
    editor = make_editor("elder-plus", base, **{**OPTIONS["elder-plus"], "start": "prompt"})
    torch.nn.init.normal_(editor.mixtures[0].b, std=0.3)
    torch.nn.init.normal_(editor.mixtures[1].b, std=0.3)
    (part,) = editor.tails.prepare(rows)
    gates = random_gates(editor).requires_grad_()
    fast = editor.tails.answer_losses(part, gates)
    assert_same_training(editor, fast, whole_forward(editor, part.rows, gates, None), gates)


@pytest.mark.parametrize("method", ["elder-plus"], indirect=True)
def test_tails_report_the_states_of_the_base_model(editor: Any, base: Base, rows: list[Row]) -> None:
    (part,) = editor.tails.prepare(rows)
    names = ("input_ids", "attention_mask", "position_ids")
    states = states_of(base.model, {name: getattr(part.rows, name) for name in names})
    real = part.rows.attention_mask[:, :-1].bool()
    embedded = base.model.get_input_embeddings()(part.rows.input_ids)  # subject_layer 0
    torch.testing.assert_close(part.low[real], embedded[:, :-1][real])
    for b, row in enumerate(rows):
        at = states[editor.layers[0]][b, int(part.rows.key_positions[b])]
        torch.testing.assert_close(part.last[b], at)
        assert int(part.rows.input_ids[b, part.rows.key_positions[b]]) == row.prompt[-1]


def test_rows_are_prepared_in_micro_batches_without_loss(base: Base, method: str, rows: list[Row]) -> None:
    editor = make_editor(method, base, **{**OPTIONS[method], "micro_batch": 2})
    trainer = editor.trainer if method == "elder" else editor.tails
    parts = trainer.prepare(rows)
    assert [part.index for part in parts] == [(0, 1), (2, 3), (4,)]
    assert all(part.rows.weights.eq(1).all() for part in parts)
