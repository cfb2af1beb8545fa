"""Laying training rows end to end instead of padding each to the longest.

Several rows share one line of tokens; a block-diagonal causal mask keeps them apart and positions start anew with
each. Everything that treats tokens singly then spends nothing on padding. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elder.mixture.samples import Row


@dataclass(frozen=True)
class Packed:
    """R rows on P lines of T tokens. Places are indices into the P*T tokens.

    Attributes:
        input_ids: (P, T).
        position_ids: (P, T).
        mask: (P, 1, T, T), added to attention scores: 0 within a row and backwards, else the lowest number. For rows
            that are alone (P, T), 1 for real tokens.
        row: (P, T) the row that a token belongs to; 0 for padding.
        keys: (R,) place of each row's last prompt token.
        places: (R, K) places whose logits predict the K last tokens of each row; K is the longest answer.
        kept: (M,) the different ones among `places`, in rising order.
    """

    input_ids: Tensor
    position_ids: Tensor
    mask: Tensor
    row: Tensor
    keys: Tensor
    places: Tensor
    kept: Tensor


def lines_of(lengths: Sequence[int], width: int) -> list[list[int]]:
    """The rows of each line, so that linear maps and attention together cost least.

    Args:
        lengths: Tokens of each row.
        width: Of the model; a token's attention over T others costs about T / (2 * width) of its linear maps.
    """

    def dealt(count: int) -> list[list[int]]:
        lines: list[list[int]] = [[] for _ in range(count)]
        filled = [0] * count
        for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
            line = filled.index(min(filled))
            lines[line].append(i)
            filled[line] += lengths[i]
        return lines

    def cost(lines: list[list[int]]) -> float:
        longest = max(sum(lengths[i] for i in line) for line in lines)
        return len(lines) * longest * (1 + longest / (2 * width))

    return min((dealt(count) for count in range(len(lengths), 0, -1)), key=cost)


def pack(
    rows: Sequence[Row], pad: int, width: int, device: torch.device, dtype: torch.dtype, alone: bool = False
) -> Packed:
    """Lay rows on lines.

    Args:
        rows: R rows.
        pad: Id that fills lines up.
        width: Of the model.
        device: Where the tensors are wanted.
        dtype: Of the mask.
        alone: Give each row a separate line and make an ordinary padding mask, for models that do not see by
            position ids where a row begins, or that need other masks in some layers.
    """
    lengths = [len(row.prompt) + len(row.answer) for row in rows]
    lines = [[i] for i in range(len(rows))] if alone else lines_of(lengths, width)
    long = max(sum(lengths[i] for i in line) for line in lines)
    ids = torch.full((len(lines), long), pad)
    positions, owner = torch.zeros_like(ids), torch.full_like(ids, -1)
    answer = max(len(row.answer) for row in rows)
    keys, places = [0] * len(rows), [[0]] * len(rows)
    for at, line in enumerate(lines):
        begin = 0
        for i in line:
            prompt, end = len(rows[i].prompt), begin + len(rows[i].prompt) + len(rows[i].answer)
            ids[at, begin:end] = torch.tensor(rows[i].prompt + rows[i].answer)
            positions[at, begin:end], owner[at, begin:end] = torch.arange(end - begin), i
            keys[i] = at * long + begin + prompt - 1
            places[i] = [at * long + max(begin, place) for place in range(end - 1 - answer, end - 1)]
            begin = end
    mask = (owner >= 0).long() if alone else _blocks(owner, dtype)
    where = torch.tensor(places)
    return Packed(
        ids.to(device),
        positions.to(device),
        mask.to(device),
        owner.clamp(min=0).to(device),
        torch.tensor(keys).to(device),
        where.to(device),
        where.unique().to(device),  # type: ignore[no-untyped-call]
    )


def _blocks(owner: Tensor, dtype: torch.dtype) -> Tensor:
    """The block-diagonal causal mask of (P, T) owners."""
    long = owner.shape[1]
    seen = (owner[:, :, None] == owner[:, None, :]) & torch.ones(long, long, dtype=torch.bool).tril()
    return torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)[:, None]
