"""Which rows and tokens of an edited map's output are corrected."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from elder.mixture.attach import attach_mixtures, attach_tap, corrected, rows_in_scope
from elder.mixture.lora import LowRankMixture
from elder.mixture.route import Route, RoutingClock

B, T, D, N = 4, 5, 6, 3


@pytest.fixture
def mixture() -> LowRankMixture:
    made = LowRankMixture(D, D, N, 2, 1.0, 0.5, torch.Generator().manual_seed(0))
    nn.init.normal_(made.b)
    return made


def brute_force(x: Tensor, y: Tensor, mixture: LowRankMixture, gates: Tensor, route: Route, cached: bool) -> Tensor:
    out, delta = y.clone(), mixture(x, gates)
    for b in range(len(x)):
        for t in range(x.shape[1]):
            inside = route.rows is None or b in route.rows.tolist()
            if inside and (cached or route.start is None or t >= route.start[b]):
                out[b, t] = y[b, t] + delta[b, t]
    return out


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("start", [None, [1, 4, 2, 3], [2, 2, 2, 2], [0, 4, 0, 0]])
@pytest.mark.parametrize("rows", [None, [0, 2], [3], [1, 3]])
@torch.no_grad()
def test_e09_rows_and_tokens_outside_the_route_keep_their_bits(
    mixture: LowRankMixture, rows: list[int] | None, start: list[int] | None, cached: bool
) -> None:
    x, y, gates = torch.randn(B, T, D), torch.randn(B, T, D), torch.rand(B, N)
    begin = None if start is None else torch.tensor(start)
    route = Route(gates[None], None if rows is None else torch.tensor(rows), begin, 0 if start is None else min(start))
    before = y.clone()
    result = corrected(x, y, [mixture], gates, route, cached)
    wanted = brute_force(x, y, mixture, gates, route, cached)
    same = (wanted == y).all(-1)
    assert torch.equal(result[same], y[same])
    torch.testing.assert_close(result, wanted)
    assert torch.equal(y, before)
    assert not same.all()


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("rows", [None, [0, 1, 3]])
@torch.no_grad()
def test_rows_are_served_by_their_own_group(mixture: LowRankMixture, rows: list[int] | None, cached: bool) -> None:
    other = LowRankMixture(D, D, N, 2, 1.0, 0.5, torch.Generator().manual_seed(5))
    nn.init.normal_(other.b)
    x, y, gates = torch.randn(B, T, D), torch.randn(B, T, D), torch.rand(B, N)
    inside = list(range(B)) if rows is None else rows
    group_of = [1, 0, 0, 1][: len(inside)] if rows is None else [1, 0, 1]
    parts = tuple((g, torch.tensor([i for i, own in enumerate(group_of) if own == g])) for g in (0, 1))
    start = torch.tensor([1, 4, 2, 3])
    route = Route(gates[None], None if rows is None else torch.tensor(rows), start, 1, parts)
    result = corrected(x, y, [mixture, other], gates, route, cached)
    for group, maps in ((0, mixture), (1, other)):
        own = torch.tensor([b for b, of in zip(inside, group_of, strict=True) if of == group])
        alone = Route(gates[None], own, start, 1)
        wanted = brute_force(x, y, maps, gates, alone, cached)
        for b in alone.rows.tolist():
            torch.testing.assert_close(result[b], wanted[b])
    for b in set(range(B)) - set(inside):
        assert torch.equal(result[b], y[b])
    whole = Route(gates[None], None, start, 1, ((1, None),))
    torch.testing.assert_close(
        corrected(x, y, [mixture, other], gates, whole, cached), brute_force(x, y, other, gates, whole, cached)
    )


def test_rows_in_scope_names_none_all_or_some() -> None:
    assert rows_in_scope(torch.tensor([False, False])) is False
    assert rows_in_scope(torch.tensor([True, True])) is None
    assert rows_in_scope(torch.tensor([False, True, True])).tolist() == [1, 2]


def test_hooks_correct_only_while_the_clock_holds_a_route(mixture: LowRankMixture) -> None:
    target, clock = nn.Linear(D, D), RoutingClock()
    x = torch.randn(B, T, D)
    plain = target(x)
    attach_mixtures([target], [[mixture]], clock)
    assert torch.equal(target(x), plain)
    gates = torch.rand(B, N)
    with clock.imposing(Route(gates[None])):
        torch.testing.assert_close(target(x), plain + mixture(x, gates))
    assert torch.equal(target(x), plain)


def test_the_tap_decides_once_and_only_when_a_decision_is_due() -> None:
    module, clock, seen = nn.Identity(), RoutingClock(), []
    route = Route(torch.ones(1, B, N))
    attach_tap(module, clock, lambda x: seen.append(x) or route)
    x = torch.randn(B, T, D)
    module(x)
    assert seen == []
    clock.start({"input_ids": torch.zeros(B, T, dtype=torch.long)}, ())
    module(x)
    module(x)
    assert len(seen) == 1
    assert seen[0] is x
    assert clock.route is route
