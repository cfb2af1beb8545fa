"""Which tokens of an edited map's output are corrected, and what hooks ask of the pass that runs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from elder.errors import ModelError
from elder.mixture.attach import Low, attach_mixtures, attach_tap, corrected, listen_low
from elder.mixture.lora import LowRankMixture
from elder.mixture.route import Plan, Routes, Span, plan_of
from tests.elder.tiny import make_model

B, T, D, N = 4, 5, 6, 3
STARTS = [[0, 0, 0, 0], [1, 4, 2, 3], [2, 2, 2, 2], [0, 4, 0, 0]]


def mixture_of(seed: int) -> LowRankMixture:
    made = LowRankMixture(D, D, N, 2, 1.0, 0.5, torch.Generator().manual_seed(seed))
    nn.init.normal_(made.b)
    return made


@pytest.fixture
def mixture() -> LowRankMixture:
    return mixture_of(0)


def routes_of(gates: Tensor, inside: Sequence[int], group: Sequence[int] = (0,) * B) -> Routes:
    """Routes of B rows; `gates` are (B, L, N)."""
    long = torch.tensor(list(group))
    return Routes(torch.tensor([b in inside for b in range(B)]), gates, long, long - 1, torch.zeros(B, 2))


def spans_of(starts: Sequence[int], length: int = T) -> list[Span]:
    return [Span(b * length, length, start) for b, start in enumerate(starts)]


def brute_force(
    x: Tensor, y: Tensor, groups: Sequence[LowRankMixture], gates: Tensor, routes: Routes, starts: Sequence[int]
) -> Tensor:
    """Token after token, by what a route means; `gates` are (B, N)."""
    out = y.clone()
    for b in range(len(x)):
        for t in range(x.shape[1]):
            if routes.inside[b] and t >= starts[b]:
                out[b, t] = y[b, t] + groups[int(routes.group[b])](x[b : b + 1, t : t + 1], gates[b : b + 1])[0, 0]
    return out


# ---- what is corrected -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 2], [3], [1, 3]])
@torch.no_grad()
def test_e09_rows_and_tokens_outside_the_plan_keep_their_bits(
    mixture: LowRankMixture, rows: list[int], starts: list[int]
) -> None:
    x, y, gates = torch.randn(B, T, D), torch.randn(B, T, D), torch.rand(B, 1, N)
    routes = routes_of(gates, rows)
    plan = plan_of(routes, spans_of(starts), B * T)
    before = y.clone()
    result = corrected(x, y, [mixture], plan.gates[0], plan)
    wanted = brute_force(x, y, [mixture], gates[:, 0], routes, starts)
    same = (wanted == y).all(-1)
    assert torch.equal(result[same], y[same])
    torch.testing.assert_close(result, wanted)
    assert torch.equal(y, before)
    assert not same.all()


@pytest.mark.parametrize("starts", STARTS)
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 1, 3]])
@torch.no_grad()
def test_rows_are_served_by_their_own_group(mixture: LowRankMixture, rows: list[int], starts: list[int]) -> None:
    groups = [mixture, mixture_of(5)]
    x, y, gates = torch.randn(B, T, D), torch.randn(B, T, D), torch.rand(B, 2, N)
    for group in ([1, 0, 0, 1], [1, 1, 1, 1], [0, 0, 1, 0]):
        routes = routes_of(gates, rows, group)
        plan = plan_of(routes, spans_of(starts), B * T)
        for layer in range(2):
            result = corrected(x, y, groups, plan.gates[layer], plan)
            torch.testing.assert_close(result, brute_force(x, y, groups, gates[:, layer], routes, starts))
        for b in set(range(B)) - set(rows):
            assert torch.equal(result[b], y[b])


@torch.no_grad()
def test_what_is_kept_and_what_is_not_of_a_plan_for_all_tokens(mixture: LowRankMixture) -> None:
    """In training one gate serves a row, and only some tokens count."""
    x, y, gates = torch.randn(B, T, D), torch.randn(B, T, D), torch.rand(B, N)
    keep = torch.rand(B, T) < 0.5
    result = corrected(x, y, [mixture], gates, Plan(gates[None], keep=keep))
    torch.testing.assert_close(result, y + mixture(x, gates) * keep[..., None])
    assert torch.equal(result[~keep], y[~keep])
    assert 0 < int(keep.sum()) < B * T


@torch.no_grad()
def test_an_output_that_does_not_lie_in_order_in_memory_is_corrected_in_its_own_shape(mixture: LowRankMixture) -> None:
    x, gates = torch.randn(B, T, D), torch.rand(B, 1, N)
    y = torch.randn(D, T, B).permute(2, 1, 0)
    routes = routes_of(gates, [1, 2])
    plan = plan_of(routes, spans_of([1, 2, 3, 0]), B * T)
    before = y.clone()
    result = corrected(x, y, [mixture], plan.gates[0], plan)
    torch.testing.assert_close(result, brute_force(x, y, [mixture], gates[:, 0], routes, [1, 2, 3, 0]))
    assert torch.equal(y, before)


@torch.no_grad()
def test_a_correction_has_the_number_format_of_the_output(mixture: LowRankMixture) -> None:
    x, y, gates = torch.randn(B, T, D).bfloat16(), torch.randn(B, T, D).bfloat16(), torch.rand(B, 1, N)
    plan = plan_of(routes_of(gates, [0, 3]), spans_of([0, 0, 0, 2]), B * T)
    result = corrected(x, y, [mixture], plan.gates[0], plan)
    assert result.dtype == torch.bfloat16
    assert torch.equal(result[1:3], y[1:3])
    assert not torch.equal(result[0], y[0])


# ---- hooks -----------------------------------------------------------------------------------------------------------


class Steps:
    """What hooks ask, answered by hand."""

    def __init__(self, plan: Plan | None = None, groups: Sequence[Sequence[nn.Module]] = ()) -> None:
        self.plan, self.groups = plan, groups
        self.taps: list[Tensor] = []
        self.lows: list[Tensor] = []

    def planned(self) -> tuple[Plan, Sequence[Sequence[nn.Module]]] | None:
        return None if self.plan is None else (self.plan, self.groups)

    def tapped(self, states: Tensor) -> None:
        self.taps.append(states)

    def seen_low(self, states: Tensor) -> None:
        self.lows.append(states)


@torch.no_grad()
def test_hooks_correct_only_while_there_is_a_plan(mixture: LowRankMixture) -> None:
    targets, steps = [nn.Linear(D, D), nn.Linear(D, D)], Steps(groups=[[mixture, mixture_of(1)]])
    x, gates = torch.randn(B, T, D), torch.rand(2, B, N)
    plain = [target(x) for target in targets]
    attach_mixtures(targets, steps)
    for layer, target in enumerate(targets):
        steps.plan = None
        assert torch.equal(target(x), plain[layer])
        steps.plan = Plan(gates)
        wanted = plain[layer] + steps.groups[0][layer](x, gates[layer])
        torch.testing.assert_close(target(x), wanted)  # each layer has its own maps and its own gates


def test_the_tap_and_the_low_block_report_what_goes_in() -> None:
    module, steps, x = nn.Identity(), Steps(), torch.randn(B, T, D)
    attach_tap(module, steps)
    module(x)
    assert [seen is x for seen in steps.taps] == [True]


@pytest.mark.parametrize("low", [0, 2])
@torch.no_grad()
def test_subject_states_are_the_embeddings_or_the_input_of_a_block(low: int) -> None:
    model, steps = make_model("gpt2"), Steps()
    listen_low(model, model.transformer.h, low, Low(steps))
    ids = torch.randint(3, 259, (2, 6))
    states = model(input_ids=ids, output_hidden_states=True).hidden_states
    (seen,) = steps.lows
    assert torch.equal(seen, states[2] if low else model.transformer.wte(ids))


def test_maps_that_do_not_see_rows_are_refused(mixture: LowRankMixture) -> None:
    target, tap, steps = nn.Linear(D, D), nn.Identity(), Steps()
    attach_mixtures([target], steps)
    attach_tap(tap, steps)
    for module in (target, tap):
        with pytest.raises(ModelError, match="cannot be told apart"):
            module(torch.randn(B * T, D))


@pytest.mark.parametrize("how", ["copied", "pickled"])
@torch.no_grad()
def test_hooks_of_a_copy_ask_the_copy(mixture: LowRankMixture, how: str) -> None:
    target, gates = nn.Linear(D, D), torch.rand(1, B, N)
    attach_mixtures([target], Steps(Plan(gates), [[mixture]]))
    both = nn.ModuleList([target])
    x, corrected_once = torch.randn(B, T, D), target(torch.zeros(B, T, D))
    twin = copy.deepcopy(both)[0] if how == "copied" else pickle.loads(pickle.dumps(both))[0]
    assert torch.equal(twin(torch.zeros(B, T, D)), corrected_once)
    (hook,) = target._forward_hooks.values()
    hook.steering.plan = None
    assert not torch.equal(twin(x), target(x))
