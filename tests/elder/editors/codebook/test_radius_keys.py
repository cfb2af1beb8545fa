"""GRACE's codebook: add, cover, draw back; the look-up against a plain search (G1 to G3, G7)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elder.editors.codebook.radius_keys import EDGE, GONE, RadiusKeys

A, B = (1, 2), (3, 4)  # answers


def store(width: int = 2, initial: float = 1.0) -> RadiusKeys:
    return RadiusKeys(width, initial, 1e-4, torch.device("cpu"))


def at(*points: tuple[float, float]) -> Tensor:
    return torch.tensor(points)


def test_far_keys_are_added() -> None:
    keys = store()
    assert keys.place(at((0, 0), (5, 0)), [A, A], [0, 1], 0).tolist() == [0, 1]
    assert keys.radius.tolist() == [1.0, 1.0]
    assert (keys.covered, keys.conflicts, keys.replaced) == (0, 0, 0)


def test_a_near_key_of_the_same_answer_is_covered_and_trains_the_same_value() -> None:
    keys = store()
    assert keys.place(at((0, 0), (1.5, 0)), [A, A], [0, 0], 0).tolist() == [0, 0]
    assert keys.radius.tolist() == [1.5]
    assert keys.place(at((0.5, 0)), [A], [1], 1).tolist() == [1]  # a new number: stored values do not change
    assert (keys.radius.tolist(), keys.covered, len(keys)) == ([1.5], 2, 1)
    found = keys.find(at((1.5, 0), (1.6, 0)))
    assert (found.inside.tolist(), found.value.tolist()[0], found.owner.tolist()[0]) == ([True, False], 1, 1)


def test_near_keys_of_different_answers_draw_back() -> None:
    keys = store()
    keys.place(at((0, 0), (1.2, 0)), [A, B], [0, 1], 0)
    assert keys.radius.tolist() == pytest.approx([0.6 - EDGE, 0.6])
    assert keys.conflicts == 1
    found = keys.find(at((0.5, 0), (0.7, 0), (0, 0.7)))
    assert found.inside.tolist() == [True, True, False]
    assert found.owner.tolist()[:2] == [0, 1]


def test_answers_of_the_same_mean_are_not_the_same() -> None:
    """The reference compares the mean of token ids: (3, 4) would match (2, 5)."""
    keys = store()
    keys.place(at((0, 0), (1, 0)), [(3, 4), (2, 5)], [0, 1], 0)
    assert (keys.covered, keys.conflicts) == (0, 1)


def test_a_key_that_comes_again_takes_the_place_of_the_first() -> None:
    keys = store()
    keys.place(at((0, 0), (5, 5)), [A, A], [0, 1], 0)
    keys.place(at((0, 0)), [B], [2], 2)
    assert (keys.replaced, len(keys), float(keys.radius[0])) == (1, 2, GONE)
    found = keys.find(at((0, 0)))
    assert (bool(found.inside), int(found.value), int(found.owner)) == (True, 2, 2)
    assert len(keys.state()["keys"]) == 2


def test_a_look_up_adds_nothing() -> None:
    keys = store()
    keys.place(at((0, 0)), [A], [0], 0)
    before = keys.state()
    keys.find(at((0, 0), (9, 9)))
    assert all(torch.equal(tensor, keys.state()[name]) for name, tensor in before.items())


def test_the_nearest_is_that_of_a_plain_search() -> None:
    """Far from the origin and close together, where a matrix product alone would choose wrongly."""
    torch.manual_seed(0)
    keys = store(16, 1e-3)
    points = 100 + torch.randn(200, 16) * 0.05
    keys.place(points, [(n,) for n in range(200)], list(range(200)), 0)
    asked = points[torch.randperm(200)[:50]] + 0.01 * torch.randn(50, 16)
    wanted = torch.stack([(points - one).norm(dim=1) for one in asked])
    index, distance = keys.nearest(asked)
    assert torch.equal(index, wanted.argmin(1))
    torch.testing.assert_close(distance, wanted.amin(1))


def test_nothing_stored_holds_nothing() -> None:
    found = store().find(at((0, 0)))
    assert not bool(found.inside.any())
    assert found.distance.tolist() == [float("inf")]


def test_a_state_is_taken_up() -> None:
    keys, other = store(), store()
    keys.place(at((0, 0), (1.2, 0), (0, 0)), [A, B, B], [0, 1, 2], 0)
    other.load(keys.state())
    assert all(torch.equal(tensor, other.state()[name]) for name, tensor in keys.state().items())
    more = at((0.1, 0), (7, 7))
    keys.place(more, [A, A], [3, 4], 9)
    other.place(more, [A, A], [3, 4], 5)
    ours, theirs = keys.state(), other.state()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("radius", torch.tensor([-1.0]), "is negative"),
        ("value", torch.tensor([7]), "'keys.value' names what is not there"),
        ("owner", torch.tensor([0, 0]), "has 2 entries, expected 1"),
    ],
)
def test_contradictions_are_named(name: str, value: Tensor, message: str) -> None:
    keys = store()
    keys.place(at((0, 0)), [A], [0], 0)
    assert RadiusKeys.problems(keys.state(), 1, 1) == []
    assert any(message in text for text in RadiusKeys.problems({**keys.state(), name: value}, 1, 1))
