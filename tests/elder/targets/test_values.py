"""Invariants 14 and 16 to 20 of the weight editors: value optimisation on tiny random models."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from elder.base import Base
from elder.forward.partial import PartialForward
from elder.forward.upper import UpperBlocks
from elder.forward.value_row import ValueRow
from elder.models.anatomy import anatomy, clone_sharing_weights
from elder.runtime import LocalRuntime
from elder.targets.requests import essence_row, rewriting_row
from elder.targets.values import ValueOptions, find_values
from elder.tokens import pad_id
from tests.double import trained_apart
from tests.elder.tiny import EDITS, WIDTH, make_base, on_ranks

LAYER = 1
CONTEXTS = ("{}", "A text. {}", "Another, rather longer text. {}")
OPTIONS = ValueOptions(steps=12, lr=0.5, decay=0.1, clamp=10.0, stop=0.05)
# In float64; a gradient is one row's, on activations that are sums over at most 128 numbers. That makes 8e-6 where a
# gradient is nothing all the time, which none is; what comes out is 1e-13. In float32 there is no bound but the
# whole way, steps * lr.
APART = trained_apart(steps=12, lr=0.5, terms=128)


def upper_of(base: Base) -> UpperBlocks:
    model = clone_sharing_weights(base.model)
    return UpperBlocks(model, PartialForward(anatomy(model).blocks), LAYER, pad_id(base.tokenizer), torch.device("cpu"))


def rows_of(base: Base, count: int = 5) -> list[list[ValueRow]]:
    found = []
    for i, edit in enumerate(EDITS[:count]):
        told = [rewriting_row(base.tokenizer, i, edit, context) for context in CONTEXTS]
        found.append([*told, essence_row(base.tokenizer, i, edit, at_end=False)])
    return found


def starts_of(base: Base, count: int = 5) -> Tensor:
    return torch.arange(1, count + 1).float()[:, None].expand(count, WIDTH).contiguous() / WIDTH**0.5


@torch.no_grad()
def whole_logits(base: Base, row: ValueRow, change: Tensor | None = None) -> Tensor:
    """The plain way: the whole row through the whole model, a hook that adds the change."""
    model = clone_sharing_weights(base.model)

    def add(_: Any, __: Any, out: Any) -> Any:
        hidden = (out[0] if isinstance(out, tuple) else out).clone()
        if change is not None:
            hidden[0, row.at] += change
        return (hidden, *out[1:]) if isinstance(out, tuple) else hidden

    anatomy(model).blocks[LAYER].register_forward_hook(add)
    return model(input_ids=torch.tensor([row.ids])).logits[0, list(row.places)]


def test_the_prefix_cached_forward_is_the_whole_forward(base: Base) -> None:
    rows = [row for own in rows_of(base) for row in own]
    upper = upper_of(base)
    prepared = upper.prepare(rows)
    change = torch.randn(len(rows), WIDTH, generator=torch.Generator().manual_seed(0))
    for given in (None, change, change):  # twice: nothing is left behind
        with torch.no_grad():
            found = upper.logits(prepared, given)
        for i, row in enumerate(rows):
            wanted = whole_logits(base, row, None if given is None else given[i])
            torch.testing.assert_close(found[i, : len(row.places)], wanted, rtol=1e-4, atol=1e-5)


def test_rows_that_begin_with_their_subject(base: Base) -> None:
    """GPT-2 has no token in front: such rows have no prefix at all, alone and beside rows that have one."""
    first = replace(EDITS[0], prompt="Arlo lies by", subject="A", subject_at=0)
    lone = rewriting_row(base.tokenizer, 0, first, "{}")
    other = rewriting_row(base.tokenizer, 1, EDITS[1], "{}")
    for rows in ([lone], [lone, other]):
        upper = upper_of(base)
        with torch.no_grad():
            found = upper.logits(upper.prepare(rows))
        for i, row in enumerate(rows):
            torch.testing.assert_close(found[i, : len(row.places)], whole_logits(base, row), rtol=1e-4, atol=1e-5)


def test_the_gradient_of_the_change() -> None:
    """On the GPT-2: the Llama's norms compute in float32 whatever the model's format."""
    base = make_base("gpt2", torch.float64)
    rows = rows_of(base, 1)[0][:2]
    upper = upper_of(base)
    prepared = upper.prepare(rows)
    change = torch.randn(len(rows), WIDTH, dtype=torch.float64, requires_grad=True)

    def loss(change: Tensor) -> Tensor:
        return upper.logits(prepared, change).log_softmax(-1)[:, 0, 0].sum()

    assert torch.autograd.gradcheck(loss, (change,), fast_mode=True)


def stopping_apart(base: Base, rows: list[list[ValueRow]], starts: Tensor) -> ValueOptions:
    """Options under which some edits are done early and others never."""
    losses = find_values(upper_of(base), rows, starts, OPTIONS, LocalRuntime()).loss
    return replace(OPTIONS, stop=sorted(losses)[len(losses) // 2] + 0.01)


def test_many_edits_at_once_are_each_edit_alone(double: Base) -> None:
    rows, starts = rows_of(double), starts_of(double).double()
    options = stopping_apart(double, rows, starts)
    together = find_values(upper_of(double), rows, starts, options, LocalRuntime(), group=5)
    assert together.change.dtype == torch.float64
    assert len(set(together.steps)) > 1, "edits must stop at different steps for this to mean something"
    for i in range(len(rows)):
        alone = find_values(upper_of(double), [rows[i]], starts[i : i + 1], options, LocalRuntime())
        torch.testing.assert_close(together.change[i], alone.change[0], rtol=0, atol=APART)
        assert together.steps[i] == alone.steps[0]
        assert together.loss[i] == pytest.approx(alone.loss[0], abs=APART)


def test_groups_and_ranks_make_no_difference(double: Base) -> None:
    rows, starts = rows_of(double), starts_of(double).double()
    options = stopping_apart(double, rows, starts)
    one = find_values(upper_of(double), rows, starts, options, LocalRuntime(), group=5)

    def program(runtime: Any) -> Any:
        return find_values(upper_of(double), rows, starts, options, runtime, group=1)

    for found in on_ranks(program, 2):
        torch.testing.assert_close(found.change, one.change, rtol=0, atol=APART)
        assert found.steps == one.steps
        assert found.curve == pytest.approx(one.curve, abs=APART)


def test_it_learns_within_the_ball(base: Base) -> None:
    rows, starts = rows_of(base), starts_of(base)
    before = find_values(upper_of(base), rows, starts, replace(OPTIONS, steps=1), LocalRuntime())
    after = find_values(upper_of(base), rows, starts, replace(OPTIONS, steps=30, decay=0), LocalRuntime())
    assert not before.change.any()
    assert before.steps == (0,) * 5
    assert sum(after.nll) < 0.98 * sum(before.nll)
    assert (after.change.norm(dim=1) <= OPTIONS.clamp * starts.norm(dim=1) * (1 + 1e-6)).all()


def test_at_the_start_the_loss_is_the_likelihood_alone(base: Base) -> None:
    """KL = 0 and decay = 0 at step 0; and the likelihood is the plain model's."""
    rows = rows_of(base)
    found = find_values(upper_of(base), rows, starts_of(base), replace(OPTIONS, steps=1), LocalRuntime())
    assert found.loss == pytest.approx(found.nll, abs=1e-6)
    for i, own in enumerate(rows):
        scores = []
        for row in own[:-1]:
            log_probs = whole_logits(base, row).log_softmax(-1)
            scores.append(-log_probs.gather(1, torch.tensor(row.labels)[:, None]).mean())
        assert found.nll[i] == pytest.approx(float(torch.stack(scores).mean()), rel=1e-4)


def test_what_is_added_to_the_likelihood(base: Base) -> None:
    """KL(now || before) at the row that must not change, and the length of the change over the start's, squared."""
    rows, starts = rows_of(base), starts_of(base)
    found = find_values(
        upper_of(base), rows, starts, replace(OPTIONS, steps=3, decay=0.2, kl_factor=0.5), LocalRuntime()
    )
    for i, own in enumerate(rows):
        quiet = own[-1]
        now, before = (whole_logits(base, quiet, change)[0].log_softmax(-1) for change in (found.change[i], None))
        kl = float((now.exp() * (now - before)).sum())
        decay = float(found.change[i].norm() / starts[i].norm() ** 2)
        assert kl > 0
        assert found.loss[i] - found.nll[i] == pytest.approx(0.5 * kl + 0.2 * decay, rel=1e-3)


def test_what_the_model_says_already_needs_no_change(base: Base) -> None:
    rows = rows_of(base)
    easy = replace(OPTIONS, stop=1e9)
    found = find_values(upper_of(base), rows, starts_of(base), easy, LocalRuntime())
    assert not found.change.any()
    assert found.steps == (0,) * 5
    assert len(found.curve) == 1


def test_the_unedited_model_is_not_touched(base: Base) -> None:
    digest = base.digest
    find_values(upper_of(base), rows_of(base), starts_of(base), OPTIONS, LocalRuntime())
    base._digest = None
    assert base.digest == digest
