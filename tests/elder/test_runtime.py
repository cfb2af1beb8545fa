"""Shares of work and the runtime of one process."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch

from elder.errors import SolverError
from elder.runtime import (
    PIECE,
    LocalRuntime,
    fingerprint,
    keep_alike,
    merge_shares,
    rounds,
    share,
    tensors_by_first,
    weighed,
)
from tests.elder.tiny import ThreadRuntime, on_ranks


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("count", [0, 1, 2, 5, 12])
def test_shares_are_even_and_merge_back(count: int, world_size: int) -> None:
    items = list(range(count))
    ranks = [SimpleNamespace(rank=rank, world_size=world_size) for rank in range(world_size)]
    shares = [share(items, rank) for rank in ranks]
    assert merge_shares(shares) == items
    lengths = [len(part) for part in shares]
    assert max(lengths) - min(lengths) <= 1
    assert rounds(count, ranks[0]) == max(lengths)


def test_merging_nothing_is_nothing() -> None:
    assert merge_shares([]) == []
    assert merge_shares([[], []]) == []


def test_one_process_is_a_group_of_itself() -> None:
    runtime, tensor = LocalRuntime("cpu"), torch.ones(3)
    assert (runtime.rank, runtime.world_size, runtime.sharded, runtime.device.type) == (0, 1, False, "cpu")
    assert runtime.sum(tensor) is tensor
    assert tensor.eq(1).all()
    assert runtime.gather_objects("x") == ["x"]
    assert runtime.barrier() is None
    with runtime.loading(), runtime.gathered([]):
        pass
    model = SimpleNamespace(generate=lambda **kwargs: kwargs)
    assert runtime.generate(model, a=1) == {"a": 1}


def test_ranks_that_are_threads_meet_as_a_group_does() -> None:
    def program(runtime: ThreadRuntime) -> tuple[list[int], list[float]]:
        tensor = torch.tensor([float(runtime.rank), 1.0])
        assert runtime.sum(tensor) is tensor
        runtime.barrier()
        return runtime.gather_objects(runtime.rank), tensor.tolist()

    assert on_ranks(program, 3) == [([0, 1, 2], [3.0, 3.0])] * 3


def test_a_rank_that_fails_fails_the_group() -> None:
    def program(runtime: ThreadRuntime) -> None:
        if runtime.rank == 1:
            raise KeyError("mine")
        runtime.barrier()

    with pytest.raises(KeyError, match="mine"):
        on_ranks(program)


def test_tensors_are_those_of_rank_0_in_their_formats() -> None:
    wanted = [
        torch.tensor([0.1, float("inf"), -3.0]),
        torch.tensor([[True, False]]),
        torch.tensor(1 / 3, dtype=torch.float64),
        torch.zeros(0, 4),
        torch.tensor([2**62, -1]),
        torch.tensor([1.5], dtype=torch.bfloat16),
    ]

    def program(runtime: ThreadRuntime) -> list[torch.Tensor]:
        return tensors_by_first(lambda: wanted if runtime.rank == 0 else [], runtime)

    for found in on_ranks(program, 3):
        assert [t.dtype for t in found] == [t.dtype for t in wanted]
        assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("failing", [0, 1])
def test_only_what_becomes_of_it_on_rank_0_counts(failing: int, together: bool) -> None:
    def program(runtime: ThreadRuntime) -> object:
        def call() -> list[torch.Tensor]:
            if together:
                runtime.barrier()
            if runtime.rank == failing:
                raise SolverError("too large")
            return [torch.full((2,), float(runtime.rank))]

        try:
            return [t.tolist() for t in tensors_by_first(call, runtime, together)]
        except SolverError as error:
            return str(error)

    assert on_ranks(program) == ([[[0.0, 0.0]]] * 2 if failing else ["too large"] * 2)


def test_replicas_that_drifted_are_put_right_and_others_are_left_alone() -> None:
    def program(runtime: ThreadRuntime) -> tuple[bool, bool, list[float]]:
        first, second = torch.nn.Parameter(torch.ones(3)), torch.arange(4.0)
        alike = keep_alike([first, second], runtime)
        with torch.no_grad():
            first[1] += 1e-6 * runtime.rank
        return alike, keep_alike([first, second], runtime), first.tolist()

    assert on_ranks(program) == [(False, True, [1.0, 1.0, 1.0])] * 2


@pytest.mark.parametrize("mark", [fingerprint, weighed], ids=["here", "on-an-accelerator"])
def test_fingerprints_see_every_bit_and_place(mark: Callable[[torch.Tensor], int]) -> None:
    torch.manual_seed(0)
    values = torch.randn(PIECE + 3)
    last, swapped, nudged = values.clone(), values.clone(), values.clone()
    last[-1] = torch.nextafter(last[-1], torch.tensor(9.0))
    swapped[[0, 1]] = swapped[[1, 0]]
    nudged[5], nudged[6] = (torch.nextafter(nudged[i], torch.tensor(9.0 * s)) for i, s in ((5, 1), (6, -1)))
    prints = {mark(t) for t in (values, last, swapped, nudged, values.double(), values.half(), values[:0])}
    assert len(prints) == 7
    assert mark(values.clone()) == mark(values)
    assert fingerprint(values.reshape(1, -1)) == fingerprint(values)
