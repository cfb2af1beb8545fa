"""Rows that are added and never changed, in a buffer that grows by doubling.

Copies share the buffer: a snapshot costs nothing, and sees none of the rows that come after it. Only the newest copy,
or one that takes its place, may add rows. Knows nothing of what the rows mean.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Self

import torch
from torch import Tensor

FIRST = 16  # rows that the first buffer holds


class Rows:
    """A growing tensor (N, *shape).

    Args:
        shape: Of one row.
        device: Where they are.
        dtype: Their number format.
    """

    def __init__(self, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype | None = None) -> None:
        self._buffer = torch.zeros(0, *shape, device=device, dtype=dtype)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def values(self) -> Tensor:
        """(N, *shape), a view; not to be written to."""
        return self._buffer[: self._count]

    def add(self, rows: Tensor) -> None:
        """Append rows (K, *shape)."""
        needed = self._count + len(rows)
        if needed > len(self._buffer):
            grown = self._buffer.new_zeros(max(needed, FIRST, 2 * len(self._buffer)), *self._buffer.shape[1:])
            grown[: self._count] = self.values
            self._buffer = grown
        self._buffer[self._count : needed] = rows
        self._count = needed

    def replaced(self, rows: Tensor) -> Self:
        """Other rows in the same format and place."""
        found = copy.copy(self)
        found._buffer, found._count = rows.to(self._buffer), len(rows)
        return found

    def changed(self, change: Callable[[Tensor], Tensor]) -> Self:
        """These rows after a change of their place or number format."""
        found = copy.copy(self)
        found._buffer = change(self._buffer)
        return found

    def snapshot(self) -> Self:
        """As they are now."""
        return copy.copy(self)
