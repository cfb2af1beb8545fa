"""M2, M4, M8: every token uses its own block, whatever other blocks there are."""

from __future__ import annotations

import pytest
import torch

from elder.editors.codebook.blocks import Blocks

CPU = torch.device("cpu")


def made(count: int, scale: float = 3.0) -> Blocks:
    generator = torch.Generator().manual_seed(0)
    blocks = Blocks(6, 5, 2, scale, CPU)
    for _ in range(count):
        blocks.add(torch.randn(6, 2, generator=generator), torch.randn(2, 5, generator=generator))
    return blocks


def gates(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers).float()[:, None]


@pytest.mark.parametrize("numbers", [(0, 3, 3, 1, 0, 3), (2,) * 6, (5, 4, 3, 2, 1, 0)])
def test_each_token_has_its_own_product(numbers: tuple[int, ...]) -> None:
    blocks, x = made(6), torch.randn(6, 6, generator=torch.Generator().manual_seed(1))
    wanted = [3.0 * x[i] @ blocks.a.values[n] @ blocks.b.values[n] for i, n in enumerate(numbers)]
    torch.testing.assert_close(blocks(x, gates(*numbers)), torch.stack(wanted))


def test_the_number_of_blocks_changes_no_bit() -> None:
    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    few, many = made(3), made(60)
    assert torch.equal(few(x, gates(0, 2, 2, 1)), many(x, gates(0, 2, 2, 1)))


def test_a_block_that_went_wrong_harms_no_other() -> None:
    blocks, x = made(3), torch.randn(2, 6, generator=torch.Generator().manual_seed(1))
    blocks.b.values[1] = torch.nan
    out = blocks(x, gates(0, 1))
    assert bool(out[0].isfinite().all())
    assert bool(out[1].isnan().all())


@pytest.mark.parametrize("number", [-1, 3])
def test_a_block_that_is_not_there_is_an_error(number: int) -> None:
    with pytest.raises(IndexError, match="of 3"):
        made(3)(torch.zeros(2, 6), gates(0, number))


def test_snapshots_cuts_and_moves() -> None:
    blocks = made(3)
    before, first = blocks.snapshot(), blocks.a.values[0].clone()
    blocks.add(torch.ones(6, 2), torch.ones(2, 5))
    assert (len(before), len(blocks)) == (3, 4)
    blocks.cut(2)
    blocks.add(torch.ones(6, 2), torch.ones(2, 5))
    assert len(blocks) == 3
    assert not torch.equal(before.a.values[2], blocks.a.values[2])
    assert torch.equal(before.a.values[0], first)
    assert blocks.to(torch.float64).b.values.dtype == torch.float64
