"""Factors of real (tiny) models against autograd's weight gradients: invariant 24, kept tokens, scales, ranks."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from elder.base import Base
from elder.hyper.factors import Factors, Recorder, read_factors
from elder.hyper.maps import edited_maps
from elder.mixture.samples import Row, encode_rows
from elder.models.anatomy import anatomy, clone_sharing_weights
from elder.runtime import LocalRuntime
from tests.elder.tiny import EDITS, make_base, on_ranks

KINDS = ("mlp_out", "mlp_in")


def rows_of(base: Base, count: int = 4) -> list[Row]:
    return [
        r for i, e in enumerate(EDITS[:count]) for r in encode_rows(base.tokenizer, (e.prompt,), e.target, i, "none")
    ]


def read(base: Base, rows: list[Row], kind: str = "mlp_out", runtime: Any = None, **options: Any) -> dict[str, Factors]:
    model = clone_sharing_weights(base.model)
    recorder = Recorder(edited_maps(anatomy(model), (1, 3), kind))
    return read_factors(model, recorder, rows, runtime or LocalRuntime(), 2, **options)[0]


def autograd(base: Base, family: str, rows: list[Row], kind: str) -> dict[str, Tensor]:
    """dLoss/dW (d_v, d_k), loss = sum over edits of the mean over its answer's tokens, one unpadded row at a time."""
    model = make_base(family).model
    maps = edited_maps(anatomy(model), (1, 3), kind)
    for module in maps.values():
        module.weight.requires_grad_(True)
    for row in rows:
        logits = model(input_ids=torch.tensor([row.prompt + row.answer])).logits[0, len(row.prompt) - 1 : -1]
        F.cross_entropy(logits, torch.tensor(row.answer)).backward()
    grads = {name: module.weight.grad for name, module in maps.items()}
    return {name: g.T if family == "gpt2" else g for name, g in grads.items()}


@pytest.mark.parametrize("kind", KINDS)
def test_24_factors_of_all_tokens_make_the_weight_gradient(base: Base, family: str, kind: str) -> None:
    rows = rows_of(base)
    found, wanted = read(base, rows, kind, tokens="all", micro_batch=3), autograd(base, family, rows, kind)
    assert set(found) == set(wanted)
    assert len(found) == (4 if kind == "mlp_in" and family == "llama" else 2)
    for name, gradient in wanted.items():
        made = found[name].gradients.T @ found[name].inputs
        torch.testing.assert_close(made, gradient, rtol=1e-4, atol=1e-5 * float(gradient.abs().max()))
    assert all(p.grad is None and not p.requires_grad for p in base.model.parameters())


def test_answer_tokens_are_those_that_predict_the_answer(base: Base) -> None:
    rows = rows_of(base)
    every, kept = read(base, rows, tokens="all"), read(base, rows)
    for name, own in kept.items():
        assert own.rows.tolist() == [i for i, row in enumerate(rows) for _ in row.answer]
        last = torch.cat([every[name].inputs[every[name].rows == i][-len(row.answer) :] for i, row in enumerate(rows)])
        assert torch.equal(own.inputs, last)
        assert float(own.gradients.norm(dim=1).min()) > 0


def test_scales_are_what_they_say_and_do_not_depend_on_batches(base: Base) -> None:
    rows = rows_of(base)
    lengths = torch.tensor([float(len(row.answer)) for row in rows])
    total = read(base, rows, loss="sum")["3.mlp_out"]
    for loss, divisor in (("edit", lengths[total.rows]), ("token", lengths.sum().expand(len(total.rows)))):
        for micro_batch in (1, 3, 16):
            own = read(base, rows, loss=loss, micro_batch=micro_batch)["3.mlp_out"]
            torch.testing.assert_close(own.gradients * divisor[:, None], total.gradients, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("world_size", [2, 3])
def test_every_rank_has_the_factors_of_all_rows_in_order(base: Base, world_size: int) -> None:
    rows = rows_of(base, 5)
    wanted = read(base, rows, micro_batch=2)
    for found in on_ranks(lambda runtime: read(base, rows, runtime=runtime, micro_batch=2), world_size):
        for name, own in wanted.items():
            assert torch.equal(found[name].inputs, own.inputs)
            assert torch.equal(found[name].gradients, own.gradients)
            assert torch.equal(found[name].rows, own.rows)


def test_a_recorder_that_is_not_asked_leaves_the_model_alone(base: Base) -> None:
    model = clone_sharing_weights(base.model)
    Recorder(edited_maps(anatomy(model), (1, 3), "mlp_out"))
    ids = torch.tensor([[3, 4, 5]])
    found = model(input_ids=ids).logits
    assert not found.requires_grad
    assert torch.equal(found, base.model(input_ids=ids).logits)
