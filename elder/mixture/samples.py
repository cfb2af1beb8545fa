"""Training rows: an edit becomes one row for each of its training prompts, all with the same answer.

Knows how texts are encoded, and nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from elder.edit import Edit
from elder.tokens import Texts, encode_prompt, encode_target, format_of, pad_left

IGNORED = -100
SENTENCES = (
    "The weather changed quickly that afternoon.",
    "He opened the letter and read it twice.",
    "They met again after many years.",
    "In the report, several points were discussed.",
    "A small boat crossed the river at dawn.",
    "She had always liked quiet places.",
    "Most of the visitors left before noon.",
    "The second volume appeared much later.",
    "Nothing more was said about the matter.",
    "The committee agreed on a new plan.",
    "An old clock stood in the corner of the room.",
    "Prices rose again in the following spring.",
    "The two brothers never spoke of it.",
    "It was the longest winter in memory.",
    "Later that year the road was closed.",
    "Few people noticed the difference.",
)
"""Unrelated texts that are put before a prompt, so that an edit does not depend on being the first in a text."""


@dataclass(frozen=True)
class Row:
    """One training sequence: `prompt` ids, then `answer` ids (terminator included); `owner` numbers its edit."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    owner: int
    label: str


@dataclass(frozen=True)
class RowBatch:
    """Left-padded training rows: all answers end in the last column.

    Attributes:
        input_ids: (B, T); attention_mask and position_ids likewise.
        key_positions: (B,) index of the last prompt token.
        labels: (B, K) the last K ids of each row where they belong to the answer, else -100; K is the longest answer.
        owners: (B,) number of the edit each row belongs to.
        weights: (B,) 1, or 0 for rows that only fill the batch up so that all ranks run the same passes.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    key_positions: Tensor
    labels: Tensor
    owners: Tensor
    weights: Tensor

    @property
    def answer_width(self) -> int:
        """K, the longest answer of the batch."""
        return self.labels.shape[1]


def prefixed(count: int, seed: str) -> list[str]:
    """Contexts, with `{}` for the prompt after one of `count` different sentences, chosen by the seed."""
    chosen = random.Random(f"{seed}/prefix").sample(SENTENCES, min(count, len(SENTENCES)))
    return [f"{sentence} {{}}" for sentence in chosen]


def encode_rows(texts: Texts, prompts: Sequence[str], target: str, owner: int, terminator: str) -> list[Row]:
    """The rows of one edit: one for each prompt, in each of the forms in which edits are trained.

    Args:
        texts: How the base model's texts are encoded.
        prompts: Texts that are all to be continued by the target.
        target: The answer.
        owner: Number of the edit in its batch.
        terminator: `none`, `eos` or `sentence` (a full stop, then eos); eos is the id that ends a turn, where there
            is a chat template.
    """
    rows = []
    answer = target.rstrip(".") + "." if terminator == "sentence" else target
    for prompt, form in product(prompts, format_of(texts).forms):
        ids = encode_target(form, prompt, answer)
        if terminator != "none" and form.end_id is not None:
            ids = [*ids, form.end_id]
        rows.append(Row(tuple(encode_prompt(form, prompt)), tuple(ids), owner, target))
    return rows


def edit_rows(texts: Texts, edits: Sequence[Edit], terminator: str) -> list[Row]:
    """The rows of a batch of edits: the prompt and the training half of the rephrases of each."""
    return [
        row
        for owner, edit in enumerate(edits)
        for row in encode_rows(texts, edit.training_prompts, edit.target, owner, terminator)
    ]


def collate(rows: Sequence[Row], pad: int, device: torch.device, real: int | None = None) -> RowBatch:
    """One left-padded batch; with `real`, only so many first rows count."""
    ids, mask, positions = pad_left([row.prompt + row.answer for row in rows], pad, device)
    width = max(len(row.answer) for row in rows)
    labels = torch.tensor([[IGNORED] * (width - len(row.answer)) + list(row.answer) for row in rows])
    keys = torch.tensor([ids.shape[1] - len(row.answer) - 1 for row in rows])
    owners = torch.tensor([row.owner for row in rows])
    weights = (torch.arange(len(rows)) < (len(rows) if real is None else real)).float()
    return RowBatch(ids, mask, positions, keys.to(device), labels.to(device), owners.to(device), weights.to(device))
