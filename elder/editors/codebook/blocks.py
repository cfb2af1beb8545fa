"""The low-rank blocks of MELO for one edited map, of which every token uses one.

Block b is the slice [b p, (b + 1) p) of the inner columns of one large pair of matrices. It is kept apart here, so that
the number of blocks is not fixed beforehand and changes no result: a block that is not there cannot be asked for.
Knows nothing of which token uses which block, or of training.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from elder.editors.codebook.rows import Rows


class Blocks(nn.Module):
    """K maps A_k B_k of rank p: delta = scale * x A_k B_k, with k the block of the token.

    Args:
        d_in: Width of the edited map's input.
        d_out: Width of its output.
        rank: Of a block (p).
        scale: Factor of the product.
        device: Where it is computed.
    """

    def __init__(self, d_in: int, d_out: int, rank: int, scale: float, device: torch.device) -> None:
        super().__init__()
        self.scale = scale
        self.a, self.b = Rows((d_in, rank), device), Rows((rank, d_out), device)

    def __len__(self) -> int:
        return len(self.a)

    def add(self, a: Tensor, b: Tensor) -> None:
        """Append a block, (in, p) and (p, out)."""
        self.a.add(a.detach()[None])
        self.b.add(b.detach()[None])

    def load(self, a: Tensor, b: Tensor) -> None:
        """Have other blocks, (K, in, p) and (K, p, out)."""
        self.a, self.b = self.a.replaced(a), self.b.replaced(b)

    def cut(self, count: int) -> None:
        """Keep the first blocks."""
        self.load(self.a.values[:count], self.b.values[:count])

    def snapshot(self) -> Blocks:
        """The blocks of now, without copying them."""
        found = Blocks.__new__(Blocks)
        nn.Module.__init__(found)
        found.scale, found.a, found.b = self.scale, self.a.snapshot(), self.b.snapshot()
        return found

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.a, self.b = self.a.changed(fn), self.b.changed(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]

    def columns(self, gate: Tensor, dtype: torch.dtype) -> Tensor:
        """(M,) long, the block of each token, from its number in the place of the token's gates, (M, 1)."""
        return gate[..., 0].long()

    def mixed(self, x: Tensor, blocks: Tensor) -> Tensor:
        """The corrections of tokens (M, in) by their blocks (M,): (M, out).

        Tokens of one block lie side by side in a batch of products, so a block that has gone wrong harms no other.

        Raises:
            IndexError: There is no such block.
        """
        used, place, counts = blocks.unique(return_inverse=True, return_counts=True)  # type: ignore[no-untyped-call]
        if not 0 <= int(used[0]) <= int(used[-1]) < len(self):
            raise IndexError(f"blocks {used.tolist()} of {len(self)}")
        a, b = (rows.values[used].to(x.dtype) for rows in (self.a, self.b))
        if len(used) == 1:
            return (x @ a[0]) @ b[0] * self.scale
        order = place.argsort(stable=True)
        first = (counts.cumsum(0) - counts).repeat_interleave(counts)
        column = torch.empty_like(place)
        column[order] = torch.arange(len(place), device=x.device) - first
        wide = x.new_zeros(len(used), int(counts.max()), x.shape[-1])
        wide[place, column] = x
        return torch.bmm(torch.bmm(wide, a), b)[place, column] * self.scale

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """The corrections of tokens (M, in), see `columns` for the gate (M, 1)."""
        return self.mixed(x, self.columns(gate, x.dtype))
