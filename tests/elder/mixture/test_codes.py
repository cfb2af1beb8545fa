"""E6, E7, E8: the store of routing codes."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import elder.mixture.codes as codes_module
from elder.mixture.codes import NEVER, CodeStore

SHAPES = [(3, 4, 2), (2, 6, 3), (4, 3, 1), (2, 4, 4)]
CPU = torch.device("cpu")


@pytest.fixture(params=[True, False], ids=["table", "comparison"])
def tabled(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        monkeypatch.setattr(codes_module, "TABLE_LIMIT", 0)
    return bool(request.param)


def random_codes(count: int, shape: tuple[int, int, int], seed: int = 0) -> Tensor:
    layers, experts, top_k = shape
    noise = torch.rand(count, layers, experts, generator=torch.Generator().manual_seed(seed))
    return torch.zeros(count, layers, experts, dtype=torch.bool).scatter_(-1, noise.topk(top_k, -1).indices, True)


def all_codes(shape: tuple[int, int, int]) -> Tensor:
    layers, experts, top_k = shape
    subsets = [[i in s for i in range(experts)] for s in itertools.combinations(range(experts), top_k)]
    return torch.tensor(list(itertools.product(subsets, repeat=layers)))


def brute_force(queries: Tensor, stored: Tensor) -> list[int]:
    return [min(int((query != code).sum()) for code in stored) for query in queries]


@pytest.mark.parametrize("shape", SHAPES)
def test_e07_distance_equals_brute_force_for_every_possible_code(shape: tuple[int, int, int], tabled: bool) -> None:
    store, stored = CodeStore(*shape, CPU), random_codes(5, shape)
    assert store.tabled == tabled
    store.add(stored[:2])
    store.add(stored[2:])
    queries = all_codes(shape)
    found = store.nearest(queries).tolist()
    assert found == brute_force(queries, stored)
    assert all(d % 2 == 0 and d <= 2 * shape[0] * shape[2] for d in found)


@pytest.mark.parametrize("shape", SHAPES[:2])
def test_e07_distance_is_symmetric_and_zero_only_for_equal_codes(shape: tuple[int, int, int], tabled: bool) -> None:
    codes = random_codes(12, shape)
    distance = []
    for code in codes:
        store = CodeStore(*shape, CPU)
        store.add(code[None])
        distance.append(store.nearest(codes))
    matrix = torch.stack(distance)
    assert torch.equal(matrix, matrix.T)
    assert torch.equal(matrix == 0, (codes[:, None] == codes[None]).all(-1).all(-1))


def test_e06_codes_are_bits_with_k_ones_in_each_layer() -> None:
    store, codes = CodeStore(3, 4, 2, CPU), random_codes(9, (3, 4, 2))
    store.add(codes)
    kept = store.state().flatten(1)
    assert kept.dtype == torch.bool
    assert kept.shape == (len(store), 12)
    assert (kept.view(-1, 3, 4).sum(-1) == 2).all()
    assert {tuple(row) for row in kept.tolist()} == {tuple(row) for row in codes.flatten(1).tolist()}


def test_e08_nothing_stored_is_as_far_as_can_be(tabled: bool) -> None:
    store = CodeStore(3, 4, 2, CPU)
    assert store.nearest(random_codes(4, (3, 4, 2))).tolist() == [NEVER] * 4


def test_e08_distances_only_shrink_as_the_store_grows(tabled: bool) -> None:
    store, queries = CodeStore(3, 4, 2, CPU), random_codes(40, (3, 4, 2), seed=5)
    last = store.nearest(queries)
    for code in random_codes(10, (3, 4, 2)):
        store.add(code[None])
        now = store.nearest(queries)
        assert (now <= last).all()
        last = now
    assert (last < NEVER).all()


def test_e12_equal_codes_are_stored_once_and_counted_each_time(tabled: bool) -> None:
    store, codes = CodeStore(3, 4, 2, CPU), random_codes(3, (3, 4, 2))
    store.add(codes[[0, 1, 0, 2]])
    store.add(codes[[1, 1]])
    assert len(store) == 3
    assert store.recorded == 6
    assert torch.equal(store.state().flatten(1), codes.flatten(1))


def test_e15_state_builds_the_same_store_again(tabled: bool) -> None:
    store, other = CodeStore(3, 4, 2, CPU), CodeStore(3, 4, 2, CPU)
    store.add(random_codes(6, (3, 4, 2)))
    other.add(random_codes(6, (3, 4, 2), seed=9))  # must be gone afterwards
    other.load(store.state(), store.recorded)
    queries = all_codes((3, 4, 2))
    assert torch.equal(other.nearest(queries), store.nearest(queries))
    assert torch.equal(other.state(), store.state())
    assert (len(other), other.recorded) == (len(store), 6)
    later = random_codes(4, (3, 4, 2), seed=2)
    store.add(later)
    other.add(later)
    assert torch.equal(other.state(), store.state())


def test_an_empty_state_empties_a_store(tabled: bool) -> None:
    store = CodeStore(3, 4, 2, CPU)
    empty = store.state()
    store.add(random_codes(2, (3, 4, 2)))
    store.load(empty, 0)
    assert len(store) == 0
    assert store.nearest(random_codes(1, (3, 4, 2))).tolist() == [NEVER]


def test_settings_of_the_paper_fit_the_table_and_large_ones_do_not() -> None:
    assert CodeStore(6, 4, 2, CPU).tabled
    assert not CodeStore(6, 16, 2, CPU).tabled
