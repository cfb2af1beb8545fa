"""Shares of work and the runtime of one process."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from elder.runtime import LocalRuntime, merge_shares, rounds, share
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
