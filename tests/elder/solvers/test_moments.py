"""Invariants 22 and 23 of the weight editors: sums in pieces are the sums of the whole."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elder.errors import SolverError
from elder.runtime import LocalRuntime
from elder.solvers.moments import RunningMoments, SecondMoment
from tests.elder.solvers.problem import close


def vectors(count: int = 30, width: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) * torch.arange(1, width + 1) + 100


@pytest.mark.parametrize("sizes", [[30], [1] * 30, [3] * 10, [7, 22, 1]])
def test_a_second_moment_in_pieces(sizes: list[int]) -> None:
    rows = vectors().float()
    first, second = SecondMoment(5), SecondMoment(5)
    for i, piece in enumerate(rows[torch.randperm(30)].split(sizes)):
        (first if i % 2 else second).add(piece)
    first.merge(second)
    first.reduce(LocalRuntime())
    assert first.count == 30
    assert close(first.mean(), rows.double().mT @ rows.double() / 30, 1e-6)
    assert torch.equal(first.mean(), first.mean().mT)
    again = SecondMoment.from_state(first.state_dict())
    assert torch.equal(again.mean(), first.mean())


def test_many_small_products_do_not_lose_bits() -> None:
    """A float32 sum of 2^24 ones stops growing; the float64 sum does not."""
    moment = SecondMoment(1)
    moment.total += 2**24
    for _ in range(8):
        moment.add(torch.ones(1, 1))
    assert float(moment.total) == 2**24 + 8


@pytest.mark.parametrize("sizes", [[30], [1] * 30, [3] * 10, [7, 22, 1]])
def test_mean_and_variance_in_pieces(sizes: list[int]) -> None:
    rows, merged = vectors(), RunningMoments.empty(5)
    for piece in rows[torch.randperm(30)].split(sizes):
        part = RunningMoments.empty(5)
        part.add(piece)
        merged.merge(part)
    assert close(merged.mean, rows.mean(0), 1e-12)
    assert close(merged.variance(), rows.var(0, unbiased=False), 1e-10)
    assert merged.count == 30


def test_nothing_changes_nothing() -> None:
    moments = RunningMoments.empty(5)
    moments.add(vectors()[:0])
    moments.merge(RunningMoments.empty(5))
    assert moments.count == 0
    with pytest.raises(SolverError, match="no vectors"):
        moments.variance()
    with pytest.raises(SolverError, match="no keys"):
        SecondMoment(3).mean()


def test_normalised_vectors_have_mean_0_and_variance_1() -> None:
    rows, moments = vectors(), RunningMoments.empty(5)
    moments.add(rows)
    normal = RunningMoments.from_state(moments.state_dict()).normalise(rows)
    assert float(normal.mean(0).abs().max()) < 1e-12
    assert close(normal.var(0, unbiased=False), torch.ones(5).double(), 1e-6)
