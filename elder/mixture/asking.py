"""Asking the base model what it would have said, before a prompt counts as one about an edit.

An edit replaces an old answer. A prompt that matches the keys of an edit may still ask for something else about the
same subject; then the base does not say the old answer there. So a pass in which such rows are routed runs as the
base's first, and once more with the correction if the base agrees. Rows that stay the base's keep what the first run
gave, bit for bit: the second one reads the same tokens in the same shape, or there are no such rows.

Knows how a pass is run again, and nothing of keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache

from elder.mixture.pass_info import Pass
from elder.mixture.rewind import can_be_cut, rewound
from elder.mixture.route import Routes, Span
from elder.models.anatomy import dimensions


def without_asked(run: Pass, rows: Tensor, found: Routes) -> Routes:
    """The routes of `rows`, (K,), with those out of scope for now that the base is asked about; noted in the pass."""
    asks = run.version.deferral.asks(found)
    some = asks.nonzero()[:, 0]
    if not len(some):
        return found
    run.asking = rows[some], found.at(some)
    return replace(found, inside=found.inside & ~asks)


def see_ends(run: Pass, ends: Sequence[int]) -> None:
    """Let the pass compute all logits if it would not compute those at the columns where its prompts end."""
    keep, length = run.kwargs.get("logits_to_keep"), _length(run)
    if isinstance(keep, Tensor):
        seen = set(keep.tolist())
    elif isinstance(keep, int) and keep:
        seen = set(range(length - keep, length))
    else:
        return
    if not seen.issuperset(ends):
        run.kwargs, run.kept = {**run.kwargs, "logits_to_keep": 0}, keep


def as_kept(run: Pass, output: Any) -> Any:
    """An output with the logits that the caller asked for."""
    if run.kept is not None and getattr(output, "logits", None) is not None:
        keep = slice(-run.kept, None) if isinstance(run.kept, int) else run.kept
        output.logits = output.logits[:, keep]
    return output


def answered(run: Pass, output: Any, columns: Tensor, head: nn.Module) -> bool:
    """Take those rows in scope with which the base agrees; True if there are any.

    Args:
        run: A pass that has run as the base's; its `asking` is over afterwards.
        output: What it returned.
        columns: (K,) where the prompts of the rows in `asking` end, among the tokens of the pass.
        head: Makes logits of last hidden states.
    """
    assert run.asking is not None
    assert run.routes is not None
    rows, found = run.asking
    run.asking = None
    said = _logits(run, output, rows, columns, head).float().log_softmax(-1)
    agreed = run.version.deferral.agrees(found, said).to(found.inside.device)
    run.routes = run.routes.put(rows, replace(found, inside=found.inside & agreed))
    return bool(agreed.any())


def _logits(run: Pass, output: Any, rows: Tensor, columns: Tensor, head: nn.Module) -> Tensor:
    """(K, V) at the given columns of the given rows."""
    values = getattr(output, "logits", None)
    if values is None:
        values = getattr(output, "last_hidden_state", None)
    if values is None:  # a tuple; a loss may come first
        values = next(part for part in output if isinstance(part, Tensor) and part.dim() == 3)
    keep, missing = run.kwargs.get("logits_to_keep"), _length(run) - values.shape[1]
    if missing and isinstance(keep, Tensor):
        columns = (keep.to(columns.device)[None] == columns[:, None]).int().argmax(1)
    else:
        columns = columns - missing
    rows = torch.zeros_like(rows) if run.line is not None else rows
    picked: Tensor = values[rows.to(values.device), columns.to(values.device)]
    size = dimensions(head)
    made: Tensor = picked if size is not None and picked.shape[-1] == size[1] else head(picked)
    return made


def second_run(
    run: Pass, cache: Cache | None, embed: nn.Module, spans: Callable[[int], list[Span]]
) -> tuple[dict[str, Any], list[Span]]:
    """The arguments of the run with the correction, and the places of its tokens; the cache is as before the first.

    Args:
        run: The pass; where a cache cannot be cut, its tokens become those of the cache too.
        cache: What the first run returned, if it filled one.
        embed: The token embeddings.
        spans: The places of the tokens from a column on.
    """
    length = _length(run)
    if run.line is not None or cache is None:
        return run.kwargs, spans(0)  # pages are written to the same slots again
    begin = _first_needed(run, cache)
    if begin:
        cache.crop(begin - length)
        return _from(run.kwargs, begin, length, cache), spans(begin)
    if not isinstance(run.kwargs.get("past_key_values"), Cache):
        return run.kwargs, spans(0)
    if can_be_cut(cache):
        cache.crop(-length)
    elif not run.past:
        cache.reset()  # type: ignore[no-untyped-call]
    else:
        _read_all(run, embed)
    return run.kwargs, spans(0)


def _first_needed(run: Pass, cache: Cache) -> int:
    """The first new token that has to be read again; more than 0 only if nobody misses the others.

    That is so when every row is in scope, and the caller asked for the logits of the last tokens alone.
    """
    assert run.routes is not None
    assert run.ends is not None
    kwargs, length = run.kwargs, _length(run)
    keep, mask = kwargs.get("logits_to_keep"), kwargs.get("attention_mask")
    asked = any(kwargs.get(name) for name in ("output_hidden_states", "output_attentions"))
    simple = isinstance(keep, int) and keep and kwargs.get("labels") is None and not asked and not run.again
    flat = mask is None or (isinstance(mask, Tensor) and mask.dim() == 2)
    if not (simple and flat) or run.version.deferral.whole or not can_be_cut(cache):
        return 0
    if len(run.deciding) < len(run.routes) or not bool(run.routes.inside.all()):
        return 0
    return min(int(run.ends.min()), length - int(keep))  # type: ignore[arg-type]


def _from(kwargs: dict[str, Any], begin: int, length: int, cache: Cache) -> dict[str, Any]:
    """The arguments without the first `begin` of `length` new tokens, which the cache holds."""
    rest = {**kwargs, "past_key_values": cache}
    for name in ("input_ids", "inputs_embeds"):
        if isinstance(rest.get(name), Tensor):
            rest[name] = rest[name][:, begin:]
    for name in ("position_ids", "cache_position"):
        given = rest.get(name)
        if isinstance(given, Tensor) and given.shape[-1] == length:
            rest[name] = given[..., begin:]
    return rest


def _read_all(run: Pass, embed: nn.Module) -> None:
    """Let the pass read what its cache held before it, too: such a cache can only be emptied."""
    assert run.record is not None
    assert run.ends is not None
    assert run.tokens is not None
    record, past = run.record, run.past
    before, new = record.content(0).mask(), run.real
    if new is None:
        new = torch.ones(run.tokens.shape[:2], dtype=torch.bool, device=before.device)
    ends = record.ends.clone()
    rows = torch.tensor(run.deciding, device=ends.device)
    ends[rows] = run.ends.to(ends.device)[rows] + past
    run.kwargs, _ = rewound(run.kwargs, record, 0, embed)
    tokens = run.kwargs.get("input_ids")
    run.tokens = run.kwargs["inputs_embeds"] if tokens is None else tokens
    run.real = torch.cat([before, new.to(before.device)], dim=1)
    run.ends, run.deciding = ends, tuple(range(len(ends)))
    run.again, run.past, run.record, run.low = run.again + past, 0, None, None


def _length(run: Pass) -> int:
    assert run.tokens is not None
    return run.tokens.shape[1]
