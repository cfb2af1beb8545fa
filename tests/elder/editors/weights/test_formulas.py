"""What editors hand to the solvers: invariants 9 and 17 of the weight editors, on whole models."""

from __future__ import annotations

import pytest
import torch

from elder.base import Base
from elder.editors.weights.memit import MemitEditor
from elder.targets.requests import prompt_row
from tests.elder.editors.weights.seen import seen_at_end
from tests.elder.editors.weights.test_locate import make
from tests.elder.tiny import EDITS


@pytest.mark.parametrize("cache", [True, False])
def test_a_later_batch_preserves_the_keys_of_earlier_ones(base: Base, cache: bool) -> None:
    """The factor of the third batch is K^T (lambda C + Kp Kp^T + K K^T)^-1 with the keys of the first two as Kp."""
    editor = make("memit", base)
    assert isinstance(editor, MemitEditor)
    if not cache:
        editor = make("memit-plain", base)
    kept = make("memit", base)
    kept.edit(EDITS)
    editor.edit(EDITS)
    for layer in editor.layers[:1]:
        first, second, third = (part.double() for part in kept._keys._batches[layer])
        if not cache:  # other updates before make other keys of later batches: only the first batch can be compared
            first, second, third = first[:, :0], first[:, :0], first
        past = torch.cat([first, second], 1)
        system = editor.options.ridge * editor.prior(layer).dense() + past @ past.T + third @ third.T
        wanted = torch.linalg.solve(system, third).T.float()
        found = editor.deltas.of[layer].right[-2:] if cache else editor.deltas.of[layer].right[:2]
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", ["rome", "memit"])
def test_values_are_measured_by_what_they_change(base: Base, kind: str) -> None:
    """ROME's ball is as large as the MLP's output, MEMIT's as the hidden state behind the last block written."""
    editor = make(kind, base, clamp=1e-3, contexts=0)
    last = editor.layers[-1]
    output, hidden = seen_at_end(editor, prompt_row(base.tokenizer, 0, EDITS[0], "{}"), last)
    start = output if kind == "rome" else hidden
    norm = editor.edit(EDITS[:1]).outcomes[0].details["value_norm"]
    assert norm == pytest.approx(1e-3 * float(start.norm()), rel=1e-4)
