"""Second moments of the inputs of edited maps on ordinary text, all layers in one pass.

Knows models and text; nothing of edits, or of where the result is kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from elder.base import Base
from elder.errors import DataError
from elder.forward.partial import PartialForward
from elder.models.anatomy import anatomy, check_rows, clone_sharing_weights, dimensions
from elder.runtime import share
from elder.solvers.moments import SecondMoment
from elder.tokens import encode_prompt, pad_id

FORMAT = 1


@dataclass(frozen=True)
class Windows:
    """Text as token rows no longer than the model's context, BOS in front of each where the tokenizer puts it.

    Attributes:
        rows: Token ids, the longest first, so that batches of one size need little padding.
        digest: sha256 of the rows.
    """

    rows: tuple[tuple[int, ...], ...]
    digest: str

    @property
    def tokens(self) -> int:
        """Tokens in all rows."""
        return sum(map(len, self.rows))


def cut_windows(
    tokenizer: PreTrainedTokenizerBase,
    texts: Iterable[str],
    length: int,
    tokens: int | None = None,
    short: bool = False,
) -> Windows:
    """Tokenise documents, each cut off at `length`, until there are `tokens`.

    Args:
        tokenizer: The base model's.
        texts: Documents, in order; empty ones are passed over.
        length: Longest row.
        tokens: Stop here; None takes all.
        short: Accept fewer than `tokens`.

    Raises:
        DataError: There is no text, or fewer than `tokens`.
    """
    rows: list[tuple[int, ...]] = []
    total = 0
    for text in texts:
        if not text.strip():
            continue
        row = tuple(encode_prompt(tokenizer, text)[:length])
        if tokens is not None:
            row = row[: tokens - total]
        rows.append(row)
        total += len(row)
        if tokens is not None and total >= tokens:
            break
    if not rows:
        raise DataError("the text of the statistics is empty")
    if tokens is not None and total < tokens and not short:
        raise DataError(f"the text of the statistics has {total} tokens, {tokens} are wanted; give more text")
    rows.sort(key=len, reverse=True)
    return Windows(tuple(rows), hashlib.sha256(json.dumps(rows).encode()).hexdigest())


def moment_id(base_digest: str, windows: Windows, layer: int, bos: bool) -> str:
    """The id of one layer's moment by its content: equal ids mean equal statistics."""
    parts = [FORMAT, base_digest, windows.digest, windows.tokens, layer, bos, "float32 products, float64 sums"]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def collect_moments(
    base: Base,
    windows: Windows,
    layers: Sequence[int],
    bos: bool = False,
    batch_tokens: int = 4096,
    progress: Callable[[int, int], None] | None = None,
) -> dict[int, SecondMoment]:
    """C = E[k k^T] at the MLP output maps of several blocks, in one pass that ends at the last of them.

    ROME section 3.1 and its code, but all layers at once, rows dealt to the ranks, padding left out. Collective.

    Args:
        base: The unedited model.
        windows: The text.
        layers: Block numbers.
        bos: Whether begin-of-text tokens count; they are sinks with keys unlike all others, so by default not.
        batch_tokens: Tokens in one forward of one rank, padding included.
        progress: Called after each batch with (rows done, rows) of this rank.
    """
    runtime, model = base.runtime, clone_sharing_weights(base.model)
    parts = anatomy(model)
    partial = PartialForward(parts.blocks)
    moments: dict[int, SecondMoment] = {}
    taken: dict[str, Tensor] = {}
    for layer in layers:
        size = dimensions(parts.mlp_out[layer])
        moments[layer] = SecondMoment(size[0] if size else parts.inner, runtime.device)

        def take(_: Any, args: tuple[Tensor, ...], layer: int = layer) -> None:
            check_rows(args[0])
            moments[layer].add(args[0][taken["counted"]])

        parts.mlp_out[layer].register_forward_pre_hook(take)
    runtime.prepare(model)
    own = share(list(windows.rows), runtime)
    batches = list(_batches(own, batch_tokens))
    most = max(runtime.gather_objects(len(batches)))
    first = int(base.tokenizer.bos_token_id) if base.tokenizer.bos_token_id is not None and not bos else None
    done = 0
    for number in range(most):
        rows = batches[number] if number < len(batches) else []
        ids, mask = _padded(rows or [windows.rows[-1]], pad_id(base.tokenizer), runtime.device)
        counted = mask.bool() if rows else torch.zeros_like(mask, dtype=torch.bool)
        if first is not None:
            counted &= ids != first
        taken["counted"] = counted
        with torch.no_grad(), partial.only_below(max(layers) + 1):
            model(input_ids=ids, attention_mask=mask, use_cache=False, logits_to_keep=1)
        done += len(rows)
        if progress is not None:
            progress(done, len(own))
    for layer in layers:
        moments[layer].reduce(runtime)
    return moments


def _batches(rows: Sequence[tuple[int, ...]], tokens: int) -> Iterator[list[tuple[int, ...]]]:
    """Rows, the longest first, so many together that the padded batch holds at most `tokens`."""
    begin = 0
    while begin < len(rows):
        count = max(1, tokens // len(rows[begin]))
        yield list(rows[begin : begin + count])
        begin += count


def _padded(rows: Sequence[tuple[int, ...]], pad: int, device: torch.device) -> tuple[Tensor, Tensor]:
    width = len(rows[0])
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    lengths = torch.tensor([len(row) for row in rows], device=device)
    return ids, (torch.arange(width, device=device)[None] < lengths[:, None]).long()
