"""What has been decided about the rows of one forward pass, and when it is decided.

A sequence is routed once, at its last prompt token, and keeps that route through generation: with and without a
cache, for beams, for teacher forcing. Knows nothing of how routes are chosen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Route:
    """The gates of one batch.

    Attributes:
        gates: (L, B, N) weight of each low-rank map; rows out of scope are ignored. In training also L tensors
            (B, T, N), one weight for each token.
        rows: (M,) indices of the rows in scope, or None when all B rows are.
        start: (B,) first token of each row that is corrected, or None for all; tokens generated later always are.
        first: The smallest `start`, as a number.
        parts: Which group of low-rank maps serves which of the rows in scope, as pairs (group, indices among those
            rows, or None for all of them). Default: group 0 serves all.
    """

    gates: Tensor | Sequence[Tensor]
    rows: Tensor | None = None
    start: Tensor | None = None
    first: int = 0
    parts: tuple[tuple[int, Tensor | None], ...] = ((0, None),)


@dataclass(frozen=True)
class Moment:
    """One forward pass at the moment when it is routed.

    Attributes:
        positions: (B,) index of the last prompt token of each row.
        prompt: (B, T) bool, the real tokens up to and including that one.
    """

    positions: Tensor
    prompt: Tensor


class RoutingClock:
    """Tells for each forward pass of a model whether its rows must be routed anew.

    New: any pass without a filled cache. Kept: passes that continue a cache, and all passes of one `generate`. A cache
    that was filled outside (by the base model, or for another batch) has no route to keep: such a pass is routed by the
    tokens that it sees.
    """

    def __init__(self) -> None:
        self.moment: Moment | None = None  # set while the current pass still has to be routed
        self.route: Route | None = None  # the decision in force
        self._explicit: Tensor | None = None
        self._generating = False
        self._routed = False
        self._rows: int | None = None  # size of the batch that the decision in force was made for
        self._enabled = True
        self._imposed = False
        self.embedded: Tensor | None = None  # the input, (B, T, D), of a pass that came without token ids
        self.cached = False  # the current pass continues a cache: all its tokens are new

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Passes in this block are the base model's."""
        before, self._enabled = self._enabled, False
        try:
            yield
        finally:
            self._enabled, self.route, self._rows = before, None, None

    @contextmanager
    def imposing(self, route: Route) -> Iterator[None]:
        """Passes in this block use the given route, whatever they are about (training)."""
        self.route, self.moment, self._imposed = route, None, True
        try:
            yield
        finally:
            self.route, self._imposed, self._rows = None, False, None

    @contextmanager
    def at(self, positions: Tensor) -> Iterator[None]:
        """Route the passes of this block at the given positions, (B,)."""
        before, self._explicit = self._explicit, positions
        try:
            yield
        finally:
            self._explicit = before

    @contextmanager
    def generating(self) -> Iterator[None]:
        """Everything in this block is one generation: routed at its first pass, then kept."""
        before, self._generating, self._routed = self._generating, True, False
        try:
            yield
        finally:
            self._generating = before

    def start(self, kwargs: dict[str, Any], args: tuple[Any, ...]) -> None:
        """Called before every forward pass of the whole model, with its arguments."""
        cache = kwargs.get("past_key_values")
        past = 0 if cache is None or not hasattr(cache, "get_seq_length") else int(cache.get_seq_length())
        self.cached = past > 0
        if self._imposed:
            self.cached = False
            return
        if not self._enabled:
            self.moment, self.route, self._rows = None, None, None
            return
        tokens = kwargs.get("input_ids")
        tokens = args[0] if tokens is None and args else tokens
        tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
        if tokens is None:
            raise ValueError("the edited model needs input_ids or inputs_embeds")
        if self._routed if self._generating else self.cached and self._rows == len(tokens):
            self.moment = None
            return
        self.cached = False  # what is before the visible tokens plays no part
        self.moment = self._locate(tokens, kwargs.get("attention_mask"), past)
        self.embedded = tokens if tokens.is_floating_point() else None
        self.route, self._routed, self._rows = None, True, len(tokens)

    def decide(self, route: Route | None) -> None:
        """The decision for the current pass; None: no row is in scope."""
        self.route, self.moment = route, None

    def _locate(self, tokens: Tensor, mask: Tensor | None, past: int) -> Moment:
        """Where the visible tokens end; a mask and explicit positions count the `past` cached tokens too."""
        batch, length = tokens.shape[:2]
        places = torch.arange(length, device=tokens.device)
        if mask is None or mask.dim() != 2:
            real = torch.ones(batch, length, dtype=torch.bool, device=tokens.device)
        else:
            real = mask[:, -length:].to(tokens.device).bool()
        positions = (places * real).amax(dim=1) if self._explicit is None else self._explicit.to(tokens.device) - past
        positions = positions.clamp(min=0)
        if len(positions) != batch:
            raise ValueError(f"routed_at() was given {len(positions)} positions for a batch of {batch} rows")
        return Moment(positions, real & (places[None, :] <= positions[:, None]))
