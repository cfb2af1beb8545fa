"""The optimiser loop: one sum over parts and ranks, a fresh Adam, an early end."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn

from elder.forward.suffix import descend
from elder.runtime import LocalRuntime
from tests.elder.tiny import ThreadRuntime, on_ranks

TARGETS = [torch.tensor([1.0, -2.0]), torch.tensor([0.5, 3.0]), torch.tensor([4.0, 0.1])]


def parts_of(parameter: nn.Parameter, targets: list[Tensor]) -> list:
    return [lambda t=t: ((parameter - t) ** 2).sum() / len(TARGETS) for t in targets]


def plain_adam(lr: float, steps: int) -> tuple[Tensor, list[float]]:
    parameter, losses = nn.Parameter(torch.zeros(2)), []
    optimizer = torch.optim.Adam([parameter], lr=lr)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = sum(part() for part in parts_of(parameter, TARGETS))
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return parameter.detach(), losses


def test_parts_are_summed_into_one_step_of_adam() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    losses = descend([parameter], lambda: parts_of(parameter, TARGETS), 0.1, 15, LocalRuntime())
    wanted, curve = plain_adam(0.1, 15)
    torch.testing.assert_close(parameter.detach(), wanted)
    assert losses == pytest.approx(curve, rel=1e-5)
    assert parameter.grad is None


def test_ranks_share_one_sum_even_where_one_of_them_has_no_gradient() -> None:
    def program(runtime: ThreadRuntime) -> tuple[Tensor, list[float], Tensor]:
        parameter, spare = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
        mine = TARGETS[runtime.rank :: 2]
        extra = [lambda: (spare - 1).square().sum() * 0.5] if runtime.rank == 1 else []
        losses = descend([parameter, spare], lambda: [*parts_of(parameter, mine), *extra], 0.1, 15, runtime)
        return parameter.detach(), losses, spare.detach()

    (one, curve, spare), (other, other_curve, other_spare) = on_ranks(program)
    assert torch.equal(one, other)
    assert torch.equal(spare, other_spare)
    assert float(spare) > 0.5
    assert curve == other_curve
    torch.testing.assert_close(one, plain_adam(0.1, 15)[0])


def test_the_optimiser_starts_afresh_with_every_call() -> None:
    parameter = nn.Parameter(torch.zeros(2))
    for _ in range(2):
        before = parameter.detach().clone()
        descend([parameter], lambda: parts_of(parameter, TARGETS), 0.1, 1, LocalRuntime())
        torch.testing.assert_close((parameter - before).abs(), torch.full((2,), 0.1), atol=1e-5, rtol=0)


def test_a_batch_that_is_learnt_ends_early_and_is_asked_every_ten_steps() -> None:
    parameter, asked = nn.Parameter(torch.zeros(2)), []

    def learnt() -> bool:
        asked.append(1)
        return len(asked) == 3

    losses = descend([parameter], lambda: parts_of(parameter, TARGETS), 0.1, 45, LocalRuntime(), learnt)
    assert len(losses) == 30


def test_the_rate_falls_in_steps() -> None:
    """On a slope without end Adam goes one rate a step."""
    parameter = nn.Parameter(torch.zeros(1))
    losses = descend([parameter], lambda: [lambda: parameter.sum()], 0.1, 8, LocalRuntime(), decay=(3, 0.5))
    went = [a - b for a, b in itertools.pairwise(losses)]
    assert went == pytest.approx([0.1] * 3 + [0.05] * 3 + [0.025], rel=1e-3)
