"""Conversations with an edited model: what it says to a prompt alone, and decodings that are led step by step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from elder.base import Base
from tests.elder.tiny import EDITS, OTHERS, padded

INSIDE = [edit.prompt for edit in EDITS[:4]] + [EDITS[0].rephrases[0], EDITS[2].rephrases[0]]
OUTSIDE = [OTHERS[0], OTHERS[3], EDITS[4].rephrases[0], EDITS[5].rephrases[0], EDITS[0].rephrases[1]]
PROMPTS = [*INSIDE, *OUTSIDE]
MIXED = [INSIDE[0], OUTSIDE[0], INSIDE[4], OUTSIDE[3]]
GREEDY = {"do_sample": False}


def inputs_of(base: Base, prompts: Sequence[str]) -> dict[str, Tensor]:
    """Ids and mask, filled up on the left."""
    made = padded(base, prompts)
    return {"input_ids": made["input_ids"], "attention_mask": made["attention_mask"]}


def said(model: Any, inputs: dict[str, Tensor], more: int, **options: Any) -> list[list[int]]:
    """The `more` ids that a model answers with, row by row."""
    out = model.generate(**inputs, max_new_tokens=more, **{**GREEDY, **options})
    return out[:, -more:].tolist()


class Alone:
    """What a model answers to one prompt by itself, without anything else in the world; worked out once."""

    def __init__(self, base: Base, model: Any) -> None:
        self.base, self.model = base, model
        self._said: dict[tuple[str, int], list[int]] = {}

    def __call__(self, prompt: str, more: int) -> list[int]:
        if (prompt, more) not in self._said:
            self._said[prompt, more] = said(self.model, inputs_of(self.base, [prompt]), more)[0]
        return self._said[prompt, more]

    def each(self, prompts: Sequence[str], more: int) -> list[list[int]]:
        return [self(prompt, more) for prompt in prompts]


class Session:
    """A batch of prompts that is decoded with a cache of its own, one pass of the model at a time.

    Args:
        editor: Whose model answers.
        prompts: Of the batch.
        more: New tokens of each row.
        chunk: So many tokens of the prompts are read in one pass; 0: all.
        how: How passes are told where prompts end: "length", "mask", "around" (`routed_at`), or "not".
        cache: Of what kind.
    """

    def __init__(
        self, editor: Any, prompts: Sequence[str], more: int, chunk: int = 0, how: str = "length", cache: Any = None
    ) -> None:
        self.editor, self.prompts, self.more, self.how = editor, list(prompts), more, how
        self.inputs = inputs_of(editor.base, prompts)
        self.ids, self.mask = self.inputs["input_ids"], self.inputs["attention_mask"]
        self.width = self.ids.shape[1]
        self.chunk = min(chunk or self.width, self.width)
        self.cache = DynamicCache() if cache is None else cache
        self.logits: list[Tensor] = []  # (B, V) behind each token of the answer
        self.answer: list[Tensor] = []

    def passes(self) -> int:
        """How many passes it takes."""
        return -(-self.width // self.chunk) + self.more - 1

    @torch.no_grad()
    def run(self) -> Iterator[None]:
        """Decode; between two passes others have their turn, and rows may come and go."""
        for begin in range(0, self.width, self.chunk):
            end = min(begin + self.chunk, self.width)
            out = self.step(self.editor.model, self.cache, self.ids[:, begin:end], end)
            if end == self.width:
                self._take(out.logits[:, -1])
            yield
        while len(self.answer) < self.more:
            out = self.step(self.editor.model, self.cache, self.answer[-1], self.width + len(self.answer))
            self._take(out.logits[:, -1])
            yield

    def keep(self, rows: Sequence[int]) -> None:
        """Go on with these rows only, in that order; what becomes of the cache is the caller's matter."""
        picked = torch.tensor(rows)
        self.prompts = [self.prompts[row] for row in rows]
        self.ids, self.mask = self.ids[picked], self.mask[picked]
        self.answer = [token[picked] for token in self.answer]

    def _take(self, logits: Tensor) -> None:
        self.logits.append(logits)
        self.answer.append(logits.argmax(-1, keepdim=True))

    def step(self, model: Any, cache: Any, ids: Tensor, end: int) -> Any:
        """One pass over the columns before `end`, told where the prompts end in the way of this session."""
        more = max(0, end - self.width)
        mask = torch.nn.functional.pad(self.mask[:, :end], (0, more), value=1)
        positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        kwargs = {"attention_mask": mask, "position_ids": positions, "past_key_values": cache}
        around: Any = nullcontext()
        if model is self.editor.model:
            told = {"length": {"prompt_length": self.mask.sum(1)}, "mask": {"prompt_mask": self.mask}}
            kwargs |= told.get(self.how, {})
            if self.how == "around":
                around = self.editor.routed_at(torch.full((len(ids),), self.width - 1))
        with around:
            return model(input_ids=ids, **kwargs)

    def said(self) -> list[list[int]]:
        """Ids of the answers."""
        return torch.cat(self.answer, dim=1).tolist()

    @torch.no_grad()
    def base_logits(self, chunk: int) -> list[Tensor]:
        """What the base model makes of the same tokens, read in the same pieces."""
        model, cache, found = self.editor.base.model, DynamicCache(), []
        for begin in range(0, self.width, chunk):
            end = min(begin + chunk, self.width)
            out = self.step(model, cache, self.ids[:, begin:end], end)
        for number, token in enumerate(self.answer):
            found.append(out.logits[:, -1])
            if number < len(self.answer) - 1:
                out = self.step(model, cache, token, self.width + number + 1)
        return found
