"""Greedy free generation in batches, cut at the natural stop.

Knows nothing of edits or targets, and of editors only that their model generates.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from elder.metrics.batching import ProgressMeter, run_batched
from elder.runtime import Runtime
from elder.tokens import decode, pad_id, pad_left, stop_ids


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model said after a prompt.

    Attributes:
        ids: The new tokens, the stop included.
        text: Their text before the stop, outer white space stripped.
        finished: Whether a natural stop came before the limit; otherwise `text` is not the whole answer.
    """

    ids: tuple[int, ...]
    text: str
    finished: bool


@dataclass(frozen=True)
class Decoder:
    """How to generate: the tokenizer, its natural stops, how many tokens at most, how many prompts a batch."""

    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]
    limit: int
    batch_size: int
    context: int | None = None
    through: bool = False  # run to the limit: EOS is never chosen, for long continuations

    @classmethod
    def to_stop(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        limit: int,
        batch_size: int,
        context: int | None = None,
        ends: Collection[int] = (),
    ) -> Decoder:
        """Generate until EOS, one of the model's own `ends` (`elder.tokens.end_ids`) or a newline."""
        return cls(tokenizer, stop_ids(tokenizer, ends), limit, batch_size, context)

    def config(self, limit: int) -> GenerationConfig:
        """Plain greedy search; every field that a hub model's own generation config could bend is set."""
        eos = self.tokenizer.eos_token_id
        stops = sorted(self.stops) or ([] if eos is None else [int(eos)])
        return GenerationConfig(  # type: ignore[no-untyped-call]
            max_new_tokens=limit,
            min_new_tokens=limit if self.through else 0,
            do_sample=False,
            num_beams=1,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            use_cache=True,
            eos_token_id=stops or None,
            pad_token_id=pad_id(self.tokenizer),
        )

    def cut(self, ids: Sequence[int]) -> Continuation:
        """Cut raw output behind the first natural stop."""
        for index, token in enumerate(ids):
            if token in self.stops:
                kept = tuple(ids[: index + 1])
                return Continuation(kept, decode(self.tokenizer, kept).split("\n")[0].strip(), True)
        return Continuation(tuple(ids), decode(self.tokenizer, ids).strip(), False)


def generate(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    decoder: Decoder,
    runtime: Runtime,
    meter: ProgressMeter | None = None,
) -> list[Continuation]:
    """Continue every prompt greedily (collective; every rank gets all answers).

    Args:
        model: A transformers causal language model; an editor's with its edits active or disabled.
        prompts: Token ids of each prompt, each shorter than the context of the model.
        decoder: Stops and limits.
        runtime: Splits the prompts over the ranks.
        meter: Told about every batch.

    Returns:
        One continuation for each prompt, in order. Where the context ends first, the limit is what it leaves.
    """

    def run(batch: list[Sequence[int]]) -> list[Continuation]:
        ids, mask, positions = pad_left(batch, pad_id(decoder.tokenizer), runtime.device)
        width = ids.shape[1]
        limit = decoder.limit if decoder.context is None else min(decoder.limit, decoder.context - width)
        with torch.no_grad():
            output = runtime.generate(
                model,
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions,
                generation_config=decoder.config(limit),
            )
        return [decoder.cut(row) for row in output[:, width:].tolist()]

    return run_batched(prompts, len, decoder.batch_size, runtime, run, meter)
