"""Running only a part of a decoder's blocks, so that the frozen part below the first edit is computed once.

Works on any decoder whose blocks take the hidden states first and return them: a skipped block hands its input
through. The model's own forward still makes masks, positions and caches, so nothing of an architecture is repeated
here. Patches a clone only (see `elder.models.clone_sharing_weights`). Knows nothing of mixtures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from torch import Tensor, nn


class PartialForward:
    """Lets the blocks of one model be skipped for the length of a context.

    Args:
        blocks: The decoder's blocks, in order.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._first, self._end, self._count = 0, len(blocks), len(blocks)
        self._injected: Tensor | None = None
        self._reached: Tensor | None = None
        self._capture_at: int | None = None
        self._tuple = False
        for i, block in enumerate(blocks):
            block.forward = partial(self._forward, i, block.forward)

    @contextmanager
    def only_below(self, end: int, capture: int | None = None) -> Iterator[PartialForward]:
        """Run blocks [0, end) only; afterwards `reached()` is what block `capture` (default: `end`) got, (B, T, D).

        Behind the last block that is the last block's output.
        """
        self._end, self._capture_at = end, end if capture is None else capture
        try:
            yield self
        finally:
            self._end, self._capture_at = 10**9, None

    @contextmanager
    def only_from(self, first: int, hidden: Tensor) -> Iterator[None]:
        """Run blocks [first, ...) only, on the given hidden states (B, T, D) instead of the embedded tokens.

        With `first` behind the last block the hidden states go straight to the final norm.
        """
        self._first, self._injected = first, hidden
        try:
            yield
        finally:
            self._first, self._injected = 0, None

    def reached(self) -> Tensor:
        """The hidden states that the last run under `only_below` ended with."""
        if self._reached is None:
            raise RuntimeError("no run under only_below() has reached its end")
        hidden, self._reached = self._reached, None
        return hidden

    def _forward(self, index: int, original: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        if index == self._first and self._injected is not None:
            hidden_states = self._injected
        if index == self._capture_at:
            self._reached = hidden_states
        if self._first <= index < self._end:
            out = original(hidden_states, *args, **kwargs)
            self._tuple = isinstance(out, tuple)
            if self._capture_at == self._count == index + 1:
                self._reached = out[0] if self._tuple else out
            return out
        if self._first == self._count == index + 1 and self._injected is not None:
            hidden_states = self._injected
        return (hidden_states,) if self._tuple else hidden_states
