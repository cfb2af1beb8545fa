"""E11, and the initial values of the low-rank maps."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from elder.mixture.lora import LowRankMixture, initial_bound

D_IN, D_OUT, N, RANK, SCALE = 12, 10, 4, 3, 0.5


def make(bound: float = 0.3) -> LowRankMixture:
    mixture = LowRankMixture(D_IN, D_OUT, N, RANK, SCALE, bound, torch.Generator().manual_seed(0))
    torch.nn.init.normal_(mixture.b, generator=torch.Generator().manual_seed(1))
    return mixture


def dense(mixture: LowRankMixture, x: Tensor, gate: Tensor) -> Tensor:
    """The sum over the maps as the paper writes it, one map after the other."""
    total = torch.zeros(*x.shape[:2], D_OUT)
    for i in range(N):
        part = slice(i * RANK, (i + 1) * RANK)
        total = total + gate[:, i, None, None] * SCALE * (x @ mixture.a[:, part] @ mixture.b[part])
    return total


def test_e11_concatenated_maps_equal_the_sum_over_maps_forward_and_gradients() -> None:
    mixture = make()
    x = torch.randn(5, 6, D_IN, requires_grad=True)
    gate = torch.rand(5, N, requires_grad=True)
    seed = torch.randn(5, 6, D_OUT)
    inputs = [x, gate, mixture.a, mixture.b]
    fast, slow = mixture(x, gate), dense(mixture, x, gate)
    torch.testing.assert_close(fast, slow)
    for one, other in zip(
        torch.autograd.grad((fast * seed).sum(), inputs), torch.autograd.grad((slow * seed).sum(), inputs), strict=True
    ):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_e11_maps_with_gate_zero_take_no_part() -> None:
    mixture, x = make(), torch.randn(2, 3, D_IN)
    gate = torch.tensor([[0.4, 0.0, 0.3, 0.0]]).expand(2, -1)
    before = mixture(x, gate)
    with torch.no_grad():
        mixture.a[:, RANK : 2 * RANK] = 99.0
        mixture.b[3 * RANK :] = 99.0
    assert torch.equal(mixture(x, gate), before)
    gradient = torch.autograd.grad(mixture(x, gate).sum(), mixture.b)[0]
    assert gradient[RANK : 2 * RANK].eq(0).all()
    assert gradient[:RANK].ne(0).any()


def test_a_fresh_mixture_changes_nothing_and_keeps_within_its_bound() -> None:
    mixture = LowRankMixture(D_IN, D_OUT, N, RANK, SCALE, 0.25, torch.Generator().manual_seed(0))
    assert mixture(torch.randn(2, 3, D_IN), torch.ones(2, N)).eq(0).all()
    assert mixture.a.abs().max() <= 0.25
    assert mixture.a.abs().max() > 0.2
    assert mixture.a.min() < -0.2


def test_initial_bounds_of_the_reference_code_and_of_lora() -> None:
    assert initial_bound("reference", 1600, 8) == pytest.approx(1 / math.sqrt(8))
    assert initial_bound("standard", 1600, 8) == pytest.approx(0.025)


def test_half_precision_inputs_give_half_precision_corrections_close_to_full_ones() -> None:
    mixture, x, gate = make(), torch.randn(2, 3, D_IN), torch.rand(2, N)
    half = mixture(x.bfloat16(), gate)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), mixture(x, gate), atol=0.1, rtol=0.05)
