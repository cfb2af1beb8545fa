"""Routes of rows, and what they mean for the tokens of a pass: against a walk over all tokens."""

from __future__ import annotations

from dataclasses import fields

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from elder.mixture.route import Routes, Span, parts_of, plan_of

LAYERS, EXPERTS = 2, 3


def random_routes(rows: int, seed: int = 0, groups: int = 3) -> Routes:
    generator = torch.Generator().manual_seed(seed)
    return Routes(
        torch.rand(rows, generator=generator) < 0.5,
        torch.rand(rows, LAYERS, EXPERTS, generator=generator),
        torch.randint(groups, (rows,), generator=generator),
        torch.arange(rows) + 100,
        torch.rand(rows, 2, generator=generator),
    )


def equal(one: Routes, other: Routes) -> bool:
    return all(torch.equal(getattr(one, f.name), getattr(other, f.name)) for f in fields(Routes))


# ---- rows ------------------------------------------------------------------------------------------------------------


def test_no_row_is_in_scope_without_a_decision() -> None:
    routes = Routes.none(3, LAYERS, EXPERTS, torch.device("cpu"))
    assert len(routes) == 3
    assert not routes.inside.any()
    assert routes.gates.shape == (3, LAYERS, EXPERTS)
    assert routes.owner.tolist() == [-1, -1, -1]
    assert routes.group.tolist() == [0, 0, 0]
    assert routes.score.shape == (3, 2)
    assert routes.score.isnan().all()


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 0], [1, 1, 1], [2]])
def test_rows_are_taken_in_the_order_that_is_asked_for(rows: list[int]) -> None:
    routes = random_routes(4)
    taken = routes.at(torch.tensor(rows))
    assert len(taken) == len(rows)
    for k, row in enumerate(rows):
        for f in fields(Routes):
            assert torch.equal(getattr(taken, f.name)[k], getattr(routes, f.name)[row]), f.name


def test_rows_are_put_in_place_and_nothing_else_is_touched() -> None:
    routes, other = random_routes(4), random_routes(2, seed=1)
    kept = random_routes(4)
    result = routes.put(torch.tensor([3, 1]), other)
    assert equal(result.at(torch.tensor([3, 1])), other)
    assert equal(result.at(torch.tensor([0, 2])), kept.at(torch.tensor([0, 2])))
    assert equal(routes, kept)


def test_what_is_put_takes_on_the_number_format_that_is_there() -> None:
    routes, other = random_routes(2), random_routes(1, seed=1)
    half = Routes(other.inside, other.gates.half(), other.group, other.owner, other.score.double())
    result = routes.put(torch.tensor([1]), half)
    assert result.gates.dtype == result.score.dtype == torch.float32


def test_joined_parts_come_in_order() -> None:
    parts = [random_routes(2, seed=1), random_routes(1, seed=2), random_routes(3, seed=3)]
    whole = Routes.joined(parts)
    assert len(whole) == 6
    for begin, part in zip((0, 2, 3), parts, strict=True):
        assert equal(whole.at(torch.arange(begin, begin + len(part))), part)


# ---- the plan of a pass ----------------------------------------------------------------------------------------------


@st.composite
def passes(draw: st.DrawFn) -> tuple[Routes, list[Span], int]:
    """Rows that lie one behind the other with tokens of nobody between them, as batches and packed passes have them."""
    rows = draw(st.integers(1, 5))
    spans, at = [], draw(st.integers(0, 2))
    for _ in range(rows):
        length = draw(st.integers(0, 4))
        spans.append(Span(at, length, draw(st.integers(0, length + 1))))
        at += length + draw(st.integers(0, 2))
    flags = draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
    routes = random_routes(rows, draw(st.integers(0, 99)))
    return Routes(torch.tensor(flags), routes.gates, routes.group, routes.owner, routes.score), spans, at


def walked(routes: Routes, spans: list[Span]) -> dict[int, int]:
    """The row of every corrected token."""
    return {
        span.begin + t: row
        for row, span in enumerate(spans)
        for t in range(span.length)
        if routes.inside[row] and t >= span.start
    }


@given(passes())
def test_a_plan_names_each_corrected_token_with_its_gates_and_its_group(made: tuple[Routes, list[Span], int]) -> None:
    routes, spans, size = made
    wanted, plan = walked(routes, spans), plan_of(routes, spans, size)
    assert (plan is None) == (not wanted)
    if plan is None:
        return
    places = list(range(size)) if plan.tokens is None else plan.tokens.tolist()
    assert sorted(places) == sorted(wanted)
    assert len(plan.gates) == LAYERS
    for layer in range(LAYERS):
        assert torch.equal(plan.gates[layer], torch.stack([routes.gates[wanted[p], layer] for p in places]))
    assert _group_of(plan.parts, len(places)) == [int(routes.group[wanted[p]]) for p in places]


def _group_of(parts: tuple[tuple[int, Tensor | None], ...], size: int) -> list[int]:
    found = [-1] * size
    for group, tokens in parts:
        for token in range(size) if tokens is None else tokens.tolist():
            assert found[token] == -1
            found[token] = group
    return found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8))
def test_parts_divide_the_tokens_among_the_groups(groups: list[int]) -> None:
    parts = parts_of(torch.tensor(groups))
    assert _group_of(parts, len(groups)) == groups
    assert [group for group, _ in parts] == sorted(set(groups))
