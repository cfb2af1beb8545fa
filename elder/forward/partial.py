"""Running only a part of a decoder's blocks, so that the frozen part below the first edit is computed once.

Works on any decoder whose blocks take the hidden states first and return them: a skipped block hands its input
through. The model's own forward still makes masks, positions and caches, so nothing of an architecture is repeated
here. Patches a clone only (see `elder.models.anatomy.clone_sharing_weights`). Knows nothing of mixtures.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from elder.scoped import Scoped


class PartialForward:
    """Lets the blocks of one model be skipped for the length of a context.

    Args:
        blocks: The decoder's blocks, in order.
    """

    def __init__(self, blocks: Sequence[nn.Module]) -> None:
        self._count = len(blocks)
        self._tuples = False  # how blocks answer, as seen when one ran last; the same for all of a model
        self._whole = _Range(0, self._count)
        self._range: Scoped[_Range] = Scoped(self._whole)
        self._reached: Scoped[list[Tensor]] = Scoped([])
        for i, block in enumerate(blocks):
            block.forward = partial(self._forward, i, block.forward)

    @contextmanager
    def only_below(self, end: int, capture: int | None = None) -> Iterator[PartialForward]:
        """Run blocks [0, end) only; afterwards `reached()` is what block `capture` (default: `end`) got, (B, T, D).

        After the last block that is its output.
        """
        with self._range.holding(_Range(0, end, capture_at=end if capture is None else capture)):
            with self._reached.holding([]):
                yield self

    @contextmanager
    def only_from(self, first: int, hidden: Tensor) -> Iterator[None]:
        """Run blocks [first, ...) only, on the given hidden states (B, T, D) instead of the embedded tokens.

        With `first` after the last block the hidden states go straight to the final norm.
        """
        with self._range.holding(_Range(first, self._count, injected=hidden)):
            yield

    def reached(self) -> Tensor:
        """The hidden states that the last run under `only_below` ended with; asked for inside its block."""
        found = self._reached.get()
        if not found:
            raise RuntimeError("no run under only_below() has reached its end")
        return found.pop()

    def _forward(self, index: int, original: Any, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Any:
        now = self._range.get()
        if now is self._whole:
            out = original(hidden_states, *args, **kwargs)
            self._tuples = isinstance(out, tuple)
            return out
        if index == now.first and now.injected is not None:
            hidden_states = now.injected
        if index == now.capture_at:
            self._reach(hidden_states)
        if now.first <= index < now.end:
            out = original(hidden_states, *args, **kwargs)
            self._tuples = isinstance(out, tuple)
            if now.capture_at == self._count == index + 1:
                self._reach(out[0] if self._tuples else out)
            return out
        if now.first == self._count == index + 1 and now.injected is not None:
            hidden_states = now.injected
        return (hidden_states,) if self._tuples else hidden_states

    def _reach(self, hidden: Tensor) -> None:
        self._reached.get()[:] = [hidden]


@dataclass(frozen=True)
class _Range:
    """The blocks that run, [first, end); the input of the first of them; the block whose input is kept."""

    first: int
    end: int
    injected: Tensor | None = None
    capture_at: int | None = None
