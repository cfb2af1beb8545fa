"""Continuous batching as transformers does it: many requests in one line of tokens, their keys in pages of one cache.

The requests are the rows of a pass. One is recognised by the slot of the page that its last token was written to; what
has been decided about it is kept under that slot, and moves with it. Rows join and leave without notice: a slot that
another request writes to is that request's. A prompt may come in pieces, between the tokens that other requests
generate; it is routed with its last piece.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from elder.errors import ModelError
from elder.mixture.answer_bias import said_since
from elder.mixture.asking import without_asked
from elder.mixture.deferral import Prompts
from elder.mixture.pass_info import Line, Pass, Request
from elder.mixture.route import Routes, Span, plan_of

SLOTS = "_elder_slots"  # attribute of a paged cache: what is known of requests, by slot, for each owner


def line_of(kwargs: Mapping[str, Any], owner: str) -> Line | None:
    """The requests of a pass of continuous batching; None when it is another kind of pass.

    Raises:
        ModelError: The pass reads the cache through a table of blocks, or continues a request that nothing is
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
        raise ModelError("continuous batching continues a request whose tokens this edited model has not seen")
    return Line(
        tuple(Span(a, b - a, 0) for a, b in rows),
        tuple(past),
        tuple(b - 1 in asked for _, b in rows),
        tuple(known),
        tuple(written[b - 1] for _, b in rows),
        cache,
    )


def begin_line(run: Pass, line: Line) -> Pass:
    """Prepare a pass of continuous batching.

    Raises:
        ModelError: A prompt that has to be corrected as a whole comes in pieces.
    """
    assert run.tokens is not None
    device = run.tokens.device
    nowhere = Routes.none(1, *run.version.shape, device)
    known = [nowhere if one is None or one.routes is None else one.routes for one in line.known]
    run.routes = Routes.joined(known)
    ended = [one is not None and one.routes is not None for one in line.known]
    run.deciding = tuple(r for r, final in enumerate(line.final) if final and not ended[r])
    if run.version.deferral.whole and any(
        not ended[r] and (line.past[r] or not line.final[r]) for r in range(len(ended))
    ):
        raise ModelError(
            "continuous batching split a prompt, and this method corrects whole prompts: raise max_batch_tokens "
            "of the ContinuousBatchingConfig above the tokens of all prompts that wait together"
        )
    run.due = bool(run.deciding)
    if not run.due:
        run.plan = plan_of(run.routes, corrected_spans(run, line), run.tokens.shape[1])
    return run


def corrected_spans(run: Pass, line: Line) -> list[Span]:
    """The tokens of each request that are corrected if it is in scope."""
    assert run.routes is not None
    spans = []
    for r, (span, known, length) in enumerate(zip(line.spans, line.known, run.routes.length.tolist(), strict=True)):
        fresh = r in run.deciding
        end = span.length - 1 if fresh else (-1 if known is None else known.end) - line.past[r]
        start = span.length - 1 if fresh and not run.version.deferral.whole else 0
        spans.append(replace(span, start=start, stop=max(0, end + length)))
    return spans


def decide_line(run: Pass, line: Line, states: Tensor) -> None:
    """Route the requests whose prompts end in this pass, from the tap's input (1, T, Q)."""
    assert run.routes is not None
    deferral, device = run.version.deferral, states.device
    ends = [line.spans[r].begin + line.spans[r].length - 1 for r in run.deciding]
    if len(deferral):
        last = states[0, torch.tensor(ends, device=device)]
        low, real = _low_of(run, line, [_seen_of(run, line, r) for r in run.deciding], device)
        rows = torch.tensor(run.deciding, device=device)
        ids = pad_sequence([_ids_of(run, line, r) for r in run.deciding], batch_first=True)
        found = deferral.decide(Prompts(last, low, real, ids))
        run.routes = run.routes.put(rows, without_asked(run, rows, found))
    run.plan = plan_of(run.routes, corrected_spans(run, line), states.shape[1])


def _seen_of(run: Pass, line: Line, row: int) -> Tensor | None:
    """(P, D) states of a request's tokens so far, where subject keys are taken."""
    if run.low is None:
        return None
    span, known = line.spans[row], line.known[row]
    here = run.low[0, span.begin : span.begin + span.length]
    return here if known is None or known.low is None else torch.cat([known.low[0], here])


def _ids_of(run: Pass, line: Line, row: int) -> Tensor:
    """(P,) tokens of a request so far, as far as its prompt has not ended before."""
    assert run.tokens is not None
    span, known = line.spans[row], line.known[row]
    here = run.tokens[0, span.begin : span.begin + span.length]
    return here if known is None or known.ids is None else torch.cat([known.ids[0], here])


def _low_of(run: Pass, line: Line, seen: Sequence[Tensor | None], device: torch.device) -> tuple[Tensor | None, Tensor]:
    """States of the deciding requests side by side, (R, P, D), and which of them are there, (R, P)."""
    lengths = [
        line.past[r] + line.spans[r].length if s is None else len(s) for r, s in zip(run.deciding, seen, strict=True)
    ]
    real = torch.arange(max(lengths), device=device)[None] < torch.tensor(lengths, device=device)[:, None]
    parts = [one for one in seen if one is not None]
    return (pad_sequence(parts, batch_first=True) if parts else None), real


def note_line(run: Pass, line: Line, owner: str) -> None:
    """Keep what has been decided about each request of a pass, for those edits that decided it."""
    assert run.routes is not None
    requests = []
    for row, known in enumerate(line.known):
        before = known is not None and known.routes is not None
        if line.final[row] or before:
            end = known.end if known is not None and before else line.past[row] + line.spans[row].length - 1
            route = run.routes.at(torch.tensor([row], device=run.routes.inside.device))
            requests.append(Request(route, None, end, said=said_since(run, line, row)))
        else:
            seen = _seen_of(run, line, row)
            requests.append(Request(None, None if seen is None else seen[None], ids=_ids_of(run, line, row)[None]))
    _keep(line, owner, requests)


def _keep(line: Line, owner: str, requests: list[Request]) -> None:
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
