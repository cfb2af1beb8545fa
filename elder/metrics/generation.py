"""Greedy free generation in batches, cut at the natural stop: an end token, or the end of the answer's last line.

Knows nothing of edits or targets, and of editors only that their model generates.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from elder.metrics.batching import ProgressMeter, run_batched
from elder.runtime import Runtime
from elder.tokens import Texts, decode, format_of, newline_ids, pad_id, pad_left


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a model said after a prompt.

    Attributes:
        ids: The new tokens, the stop included.
        text: Their text before the stop, outer white space stripped, without what a chat template puts before answers.
        finished: Whether a natural stop came before the limit; otherwise `text` is not the whole answer.
    """

    ids: tuple[int, ...]
    text: str
    finished: bool


@dataclass(frozen=True)
class Decoder:
    """How to generate, and where an answer ends.

    Attributes:
        tokenizer: Of the model.
        stops: Its natural stops: end tokens, and for answers of one line all tokens with a newline.
        limit: Most new tokens.
        batch_size: Most prompts in one forward.
        context: Most tokens of a row; None: no bound.
        through: Run to the limit: EOS is never chosen, for long continuations.
        lines: Lines of an answer; more than one are counted in the text, and newlines are then no `stops`.
        lead: What answers begin with before their words, see `elder.tokens.TextFormat.lead`.
        newlines: All tokens with a newline.
    """

    tokenizer: PreTrainedTokenizerBase
    stops: frozenset[int]
    limit: int
    batch_size: int
    context: int | None = None
    through: bool = False
    lines: int = 1
    lead: str = ""
    newlines: frozenset[int] = frozenset()

    @classmethod
    def to_stop(
        cls,
        texts: Texts,
        limit: int,
        batch_size: int,
        context: int | None = None,
        ends: Collection[int] = (),
    ) -> Decoder:
        """Generate until EOS, one of the model's own ends (those of `texts`, and `ends`) or the end of the line."""
        form = format_of(texts)
        newlines = newline_ids(form.tokenizer)
        stops = newlines | form.stops | frozenset(ends)
        one = cls(form.tokenizer, stops, limit, batch_size, context, newlines=newlines)
        return one.for_answer("", form.lead if form.chat is not None else "")

    def for_answer(self, answer: str, lead: str = "", limit: int | None = None) -> Decoder:
        """The same, with room for as many lines as an answer has, and for what a template puts before it.

        Args:
            answer: The answer that is looked for; empty: any, of one line.
            lead: What is put before it.
            limit: Most new tokens; default: as before.
        """
        lines = 1 + lead.count("\n") + answer.count("\n")
        stops = self.stops | self.newlines if lines == 1 else self.stops - self.newlines
        return replace(self, stops=stops, lines=lines, lead=lead, limit=limit or self.limit)

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

    def criteria(self, width: int) -> dict[str, Any]:
        """What generation is told beside the config: to count lines, where an answer has several."""
        if self.lines == 1:
            return {}
        return {"stopping_criteria": StoppingCriteriaList([Lines(self.tokenizer, self.lines, width)])}

    def cut(self, ids: Sequence[int]) -> Continuation:
        """Cut raw output after the first natural stop."""
        end = next((index for index, token in enumerate(ids) if token in self.stops), None)
        if self.lines > 1:
            end = self._last_line(ids[: len(ids) if end is None else end + 1], end)
        kept = tuple(ids if end is None else ids[: end + 1])
        # An end token need not be a special one, whose text is left out; one with a newline may have words before it.
        closed = bool(kept) and kept[-1] in self.stops and kept[-1] not in self.newlines
        text = decode(self.tokenizer, kept[:-1] if closed else kept)
        if end is not None or self.lines > 1:
            text = "\n".join(text.split("\n")[: self.lines])
        return Continuation(kept, self._words(text), end is not None)

    def _last_line(self, ids: Sequence[int], end: int | None) -> int | None:
        """Where the last line of an answer ends, if that is before the first end token."""
        if decode(self.tokenizer, ids).count("\n") < self.lines:
            return end
        return next(i for i in range(len(ids)) if decode(self.tokenizer, ids[: i + 1]).count("\n") >= self.lines)

    def _words(self, text: str) -> str:
        return text.strip().removeprefix(self.lead.strip()).strip()


class Lines(StoppingCriteria):
    """Ends a row when what has been generated has so many newlines; new tokens begin at column `width`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, lines: int, width: int) -> None:
        self.tokenizer, self.lines, self.width = tokenizer, lines, width

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """(B, T) -> (B,) bool."""
        ended = [decode(self.tokenizer, row).count("\n") >= self.lines for row in input_ids[:, self.width :].tolist()]
        return torch.tensor(ended, dtype=torch.bool, device=input_ids.device)


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
                **decoder.criteria(width),
            )
        return [decoder.cut(row) for row in output[:, width:].tolist()]

    return run_batched(prompts, len, decoder.batch_size, runtime, run, meter)
