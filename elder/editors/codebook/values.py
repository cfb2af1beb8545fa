"""The values of GRACE: vectors that take the place of a map's output. Knows nothing of keys or of training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor, nn

from elder.editors.codebook.rows import Rows


class _Lookup(nn.Module):
    """Gives tokens their vectors."""

    replaces = True  # see `elder.mixture.attach.corrected`

    def vectors(self) -> Tensor:
        """All of them, (N, out)."""
        raise NotImplementedError

    def columns(self, gate: Tensor, dtype: torch.dtype) -> Tensor:
        """(...) long, the vector of each token, from its number in the place of the token's gates, (..., 1)."""
        return gate[..., 0].long()

    def mixed(self, x: Tensor, numbers: Tensor) -> Tensor:
        """The new outputs of tokens (..., in): (..., out)."""
        return self.vectors()[numbers].to(x.dtype)

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """The new outputs of tokens, see `columns` for the gate."""
        return self.mixed(x, self.columns(gate, x.dtype))


class Values(_Lookup):
    """N vectors (out), of which a token in scope gets one.

    Args:
        width: Of the map's output.
        device: Where they are.
    """

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.rows = Rows((width,), device)

    def __len__(self) -> int:
        return len(self.rows)

    def vectors(self) -> Tensor:
        """See `_Lookup.vectors`."""
        return self.rows.values

    def snapshot(self) -> Values:
        """The values of now, without copying them."""
        found = Values.__new__(Values)
        nn.Module.__init__(found)
        found.rows = self.rows.snapshot()
        return found

    def load(self, values: Tensor) -> None:
        """Have other values, (N, out)."""
        self.rows = self.rows.replaced(values)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        self.rows = self.rows.changed(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call,no-any-return]


class TrainedValues(_Lookup):
    """The values of one batch while they are trained.

    Args:
        start: (K, out).
    """

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.values = nn.Parameter(start.clone())

    def vectors(self) -> Tensor:
        """See `_Lookup.vectors`."""
        return self.values
