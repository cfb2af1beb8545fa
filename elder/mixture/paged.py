"""Continuous batching as transformers does it: many requests in one line of tokens, their keys in pages of one cache.

A request is recognised by the slot of the page that its last token was written to; what has been decided about it is
kept under that slot, and moves on with it. Rows join and leave without anybody telling: a slot that is written by
another request is another request's. Knows nothing of how rows are routed.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elder.errors import ModelError
from elder.mixture.route import Routes, Span

SLOTS = "_elder_slots"  # attribute of a paged cache: what is known of requests, by slot, for each owner


@dataclass(frozen=True)
class Request:
    """What is known of one request after a pass.

    Attributes:
        routes: Its route (R = 1); None while its prompt has not ended.
        low: (1, P, D) states of the prompt tokens so far, where subject keys are taken; only while it has not ended.
    """

    routes: Routes | None
    low: Tensor | None


@dataclass(frozen=True)
class Line:
    """The requests of one pass.

    Attributes:
        spans: Where the new tokens of each lie.
        past: How many tokens of each are cached.
        final: Whether the next token of each is asked for, so that its prompt ends here if it has not ended before.
        known: What was known of each before the pass; None for those that begin.
        slots: The slot of each one's last new token.
        cache: The paged cache.
    """

    spans: tuple[Span, ...]
    past: tuple[int, ...]
    final: tuple[bool, ...]
    known: tuple[Request | None, ...]
    slots: tuple[int, ...]
    cache: Any


def line_of(kwargs: Mapping[str, Any], owner: str) -> Line | None:
    """The requests of a pass of continuous batching; None when it is another kind of pass.

    Raises:
        ModelError: The pass reads the cache through a table of blocks, or goes on with a request that nothing is
            known of.
    """
    cache, bounds = kwargs.get("cache"), kwargs.get("cu_seq_lens_q")
    if cache is None or bounds is None or not hasattr(cache, "cache_allocators"):
        return None
    if kwargs.get("block_table") is not None:
        raise ModelError(
            "continuous batching of an edited model needs max_blocks_per_request=0 (no fast decode path): make the "
            "manager by the edited model's own init_continuous_batching or generate_batch"
        )
    allocator = next(iter(cache.cache_allocators.values()))
    ends: list[int] = bounds.tolist()
    rows = [(a, b) for a, b in itertools.pairwise(ends) if b > a]
    positions = kwargs["position_ids"].flatten()
    past = [int(positions[a]) for a, _ in rows]
    asked = set(kwargs["logits_indices"].tolist())
    written: list[int] = kwargs["write_index"][allocator.index].tolist()
    before = _slots_before(kwargs, allocator, past, len(rows))
    table: dict[int, Request] = getattr(cache, SLOTS, {}).get(owner, {})
    known = [None if slot is None else table.get(slot) for slot in before]
    if any(slot is not None and found is None for slot, found in zip(before, known, strict=True)):
        raise ModelError("continuous batching goes on with a request whose tokens this edited model has not seen")
    return Line(
        tuple(Span(a, b - a, 0) for a, b in rows),
        tuple(past),
        tuple(b - 1 in asked for _, b in rows),
        tuple(known),
        tuple(written[b - 1] for _, b in rows),
        cache,
    )


def keep(line: Line, owner: str, requests: list[Request]) -> None:
    """Note what is known of each request, under the slot of its last token."""
    kind: Any = type(line.cache)
    if not issubclass(kind, _Slotted):
        line.cache.__class__ = _slotted(kind)
    tables = line.cache.__dict__.setdefault(SLOTS, {})
    table: dict[int, Request] = tables.setdefault(owner, {})
    table.update(zip(line.slots, requests, strict=True))


def _slots_before(kwargs: Mapping[str, Any], allocator: Any, past: list[int], count: int) -> list[int | None]:
    """The slot of the last cached token of each request; None for those that begin."""
    if not any(past):
        return [None] * count
    read = kwargs["read_index"][allocator.index]
    keys: list[int] = kwargs["cu_seq_lens_k"][allocator.layer_type].tolist()
    queries: list[int] = kwargs["cu_seq_lens_q"].tolist()
    places = [keys[i + 1] - (queries[i + 1] - queries[i]) - 1 for i in range(count)]
    slots: list[int] = read[torch.tensor(places, device=read.device).clamp(min=0)].tolist()
    return [slot if cached else None for slot, cached in zip(slots, past, strict=True)]


class _Slotted:
    """Mixed into the class of a paged cache: what is known of a request is copied with its blocks."""

    def perform_cache_copy(self, copy_src_and_dst: dict[str, tuple[list[int], list[int]]]) -> None:
        super().perform_cache_copy(copy_src_and_dst)  # type: ignore[misc]
        name, allocator = next(iter(self.cache_allocators.items()))  # type: ignore[attr-defined]
        stride, size = allocator.block_physical_stride, allocator.tokens_per_page
        for table in self.__dict__[SLOTS].values():
            for source, target in zip(*copy_src_and_dst.get(name, ((), ())), strict=True):
                for offset in range(size):
                    if (found := table.get(source * stride + offset)) is not None:
                        table[target * stride + offset] = found


@functools.cache
def _slotted(kind: Any) -> Any:
    return type(kind.__name__, (_Slotted, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})
