"""Training a correction that begins at the last prompt token, with everything before it computed once.

When tokens before the last prompt token are never corrected, their keys and values are the base model's in every
block. They are cached for a batch of edits, and a training step runs only the edited blocks on only the last prompt
token and the answer: a handful of tokens instead of whole prompts. The cache keeps all of them, whatever a layer's
window; the model's own masks say which of them count. Where layers remember more than keys and values, whole rows
are run. Knows nothing of routing rules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from elder.forward.partial import PartialForward
from elder.mixture.attach import Bench, listen_low
from elder.mixture.route import Plan
from elder.mixture.samples import IGNORED, Row, RowBatch, collate
from elder.models.attention import whole_attention_of
from elder.runtime import Runtime, rounds, share


@dataclass(frozen=True)
class Tail:
    """One micro-batch whose prompts are cached.

    Attributes:
        rows: The padded rows.
        past: Keys and values of every block for the columns before the tail; skipped blocks share one pair. Empty when
            the tail is the whole row.
        hidden: (B, K, D) input of the first edited block in the tail's columns.
        start: (B,) column, counted within the tail, of the last prompt token.
        index: Which of all rows of the step these are.
        low: (B, T, D) what the low tap saw, in all columns but the last.
        last: (B, D) input of the first edited block at the last prompt token.
    """

    rows: RowBatch
    past: tuple[tuple[Tensor, Tensor], ...]
    hidden: Tensor
    start: Tensor
    index: tuple[int, ...]
    low: Tensor
    last: Tensor


class TailTrainer:
    """Computes answer losses of training rows through the edited blocks, at the end of the rows only.

    Args:
        model: The clone whose blocks `partial` controls.
        partial: Lets a range of blocks run alone.
        first: The first edited block.
        blocks: The decoder's blocks.
        low: Block whose input is reported as `Tail.low` (0: the token embeddings); not after `first`.
        bench: Switches the mixtures off, or imposes a plan on them.
        runtime: Where the model lives.
        pad: Id that fills rows up.
        micro_batch: Rows in one pass.
        whole: Correct whole prompts instead, so that nothing but the blocks below `first` can be cached.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        partial: PartialForward,
        first: int,
        blocks: Sequence[nn.Module],
        low: int,
        bench: Bench,
        runtime: Runtime,
        pad: int,
        micro_batch: int,
        whole: bool = False,
    ) -> None:
        self.whole = whole
        self._remembers = whole_attention_of(model).remembers and not whole
        self.model, self.partial, self.first = model, partial, first
        self.bench, self.runtime, self.pad, self.micro_batch = bench, runtime, pad, micro_batch
        self._seen: dict[str, Tensor] = {}
        self._listening = False
        listen_low(model, blocks, low, lambda _, __, states: self._note("low", states))
        blocks[first].register_forward_pre_hook(lambda _, args: self._note("hidden", args[0]))

    def prepare(self, rows: Sequence[Row]) -> list[Tail]:
        """Run the base model on this rank's share of the rows (collective under sharding)."""
        mine = share(list(enumerate(rows)), self.runtime)
        real = len(mine)
        mine += [(0, rows[0])] * (rounds(len(rows), self.runtime) - real)
        return [
            self._tail(
                collate([row for _, row in part], self.pad, self.runtime.device, max(0, real - begin)),
                tuple(i for i, _ in part),
            )
            for begin in range(0, len(mine), self.micro_batch)
            if (part := mine[begin : begin + self.micro_batch])
        ]

    def answer_losses(self, tail: Tail, gates: Tensor, group: int = 0) -> Tensor:
        """Summed cross-entropy of each row's answer, (B,), with gradients to the mixtures.

        Args:
            tail: The rows.
            gates: (L, B, N).
            group: The group of low-rank maps that serves all of them.
        """
        rows, width = tail.rows, tail.hidden.shape[1]
        columns = torch.arange(width, device=tail.hidden.device)
        keep = None if self.whole else columns[None] >= tail.start[:, None]
        plan = Plan(gates, None, ((group, None),), keep)
        with self.bench.imposing(plan), self.partial.only_from(self.first, tail.hidden):
            logits = self.model(
                input_ids=rows.input_ids[:, -width - 1 : -1],
                attention_mask=rows.attention_mask[:, :-1],
                position_ids=rows.position_ids[:, -width - 1 : -1],
                past_key_values=DynamicCache(tail.past) if tail.past else None,
                use_cache=bool(tail.past),
                logits_to_keep=rows.answer_width,
            ).logits
        loss = F.cross_entropy(logits.float().transpose(1, 2), rows.labels, ignore_index=IGNORED, reduction="none")
        return loss.sum(dim=1)

    def _tail(self, batch: RowBatch, index: tuple[int, ...]) -> Tail:
        self._listening = True
        cache = DynamicCache() if self._remembers else None
        with torch.no_grad(), self.bench.disabled():
            self.model(
                input_ids=batch.input_ids[:, :-1],
                attention_mask=batch.attention_mask[:, :-1],
                position_ids=batch.position_ids[:, :-1],
                past_key_values=cache,
                use_cache=cache is not None,
                logits_to_keep=1,
            )
        self._listening = False
        hidden, low = self._seen.pop("hidden"), self._seen.pop("low")
        width = batch.answer_width
        before = 0 if cache is None else batch.input_ids.shape[1] - 1 - width
        kept: list[Any] = [] if cache is None else cache.layers
        layers = [(layer.keys[..., :before, :], layer.values[..., :before, :]) for layer in kept]
        past = tuple(layers[self.first] if i < self.first else pair for i, pair in enumerate(layers)) if before else ()
        last = hidden[torch.arange(len(hidden), device=hidden.device), batch.key_positions]
        return Tail(batch, past, hidden[:, before:].clone(), batch.key_positions - before, index, low, last)

    def _note(self, name: str, states: Tensor) -> None:
        if self._listening:
            self._seen[name] = states
