"""The yardstick is right: the plain reference formulation and our ELDER learn and answer the same."""

from __future__ import annotations

import pytest
import torch

from bench.model import TINY, batch_of, make_base, make_edits, make_prompts
from bench.reference_elder import ReferenceElder
from elder.editors.mixture.elder import ElderEditor
from elder.editors.mixture.elder_options import ElderOptions

OPTIONS = ElderOptions(lr=1e-3, steps=6, batch_size=3, epsilon=2, seed=3)
LR_STEPS = OPTIONS.lr * OPTIONS.steps


@pytest.fixture(scope="module")
def pair():
    """Both after the same two batches of edits, with the losses of every step."""
    base = make_base(TINY)
    ours = ElderEditor(base, OPTIONS)
    reference = ReferenceElder(ours)
    edits = make_edits(6, TINY)
    return base, edits, ours, reference, ours.edit(edits).losses, reference.edit(edits)


def test_losses_of_every_step_agree(pair) -> None:
    ours, reference = torch.tensor(pair[4]), torch.tensor(pair[5])
    assert ours.shape == (2, OPTIONS.steps)
    torch.testing.assert_close(ours, reference, rtol=1e-4, atol=1e-5)
    assert (ours[:, -1] < ours[:, 0]).all()


def test_parameters_agree(pair) -> None:
    _, _, ours, reference, _, _ = pair
    n = OPTIONS.experts
    for at, (mixture, layer) in enumerate(zip(ours.mixtures, reference.layers, strict=True)):
        routed = slice(at * n, (at + 1) * n)
        for mine, theirs in (
            (mixture.a, torch.cat(list(layer.a), dim=1)),
            (mixture.b, torch.cat(list(layer.b), dim=0)),
            (ours.router.weight[routed], layer.router.weight),
            (ours.router.bias[routed], layer.router.bias),
        ):
            # Adam divides by the gradient's size: where that is rounding noise, single entries may differ by a step
            apart = (mine - theirs).abs()
            assert apart.max() < LR_STEPS
            assert (apart > 0.02 * OPTIONS.lr).float().mean() < 1e-3
        assert mixture.b.abs().max() > OPTIONS.lr


def test_stored_codes_agree(pair) -> None:
    _, _, ours, reference, _, _ = pair
    stored = torch.cat(reference.shared.codes).bool()
    assert ours.codes.recorded == len(stored) == 18
    assert {tuple(c) for c in ours.codes.state().flatten(1).tolist()} == {tuple(c) for c in stored.tolist()}


def test_scope_decisions_and_outputs_agree(pair) -> None:
    base, edits, ours, reference, _, _ = pair
    prompts = [text for edit in edits for text in (edit.prompt, *edit.rephrases)] + make_prompts(40, TINY)
    batch = batch_of(base, prompts)
    inside = ours.in_scope(**batch)
    assert inside.tolist() == reference.scope(**batch)
    assert 0 < inside.sum() < len(prompts)
    positions = (batch["attention_mask"].cumsum(1) - 1).clamp(min=0)
    with torch.no_grad():
        mine = ours.model(**batch, position_ids=positions, use_cache=False).logits
        plain = base.model(**batch, position_ids=positions, use_cache=False).logits
    theirs, real = reference.logits(**batch), batch["attention_mask"].bool()
    torch.testing.assert_close(mine[real], theirs[real], rtol=1e-4, atol=1e-4)
    assert (mine[inside] - plain[inside]).abs().amax() > 1e-2
    assert torch.equal(mine[~inside][real[~inside]], plain[~inside][real[~inside]])


def test_reference_before_any_edit_is_the_base() -> None:
    base = make_base(TINY)
    reference = ReferenceElder(ElderEditor(base, OPTIONS))
    batch = batch_of(base, make_prompts(4, TINY))
    assert reference.scope(**batch) == [False] * 4
