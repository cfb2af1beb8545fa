"""Rows of prompt and answer as padded batches, dealt to ranks: what every forward of the family runs on.

Batches are made before they are dealt, so that which rows share one, and with it every bit of the result, does not
depend on the number of ranks. Knows nothing of factors or losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from elder.mixture.samples import IGNORED, Row
from elder.runtime import Runtime, rounds, share
from elder.tokens import pad_left


@dataclass(frozen=True)
class Pass:
    """One left-padded batch; the last answer token of a row is predicted, never read.

    Attributes:
        index: (B,) numbers of the rows among all that were dealt.
        input_ids: (B, T); attention_mask and position_ids likewise.
        labels: (B, K) answers, ending in the last column, else -100; K is the longest answer.
        counted: (B, K) the places that predict an answer token; the last place of a row without an answer.
        real: Whether it counts; others are run so that all ranks run the same number.
    """

    index: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    counted: Tensor
    real: bool

    def answer_mask(self) -> Tensor:
        """(B, T): the positions that predict an answer token."""
        mask = torch.zeros_like(self.attention_mask, dtype=torch.bool)
        mask[:, -self.counted.shape[1] :] = self.counted
        return mask

    def inputs(self) -> dict[str, object]:
        """Arguments of the model; only the last K logits are computed."""
        return {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "position_ids": self.position_ids,
            "use_cache": False,
            "logits_to_keep": self.counted.shape[1],
        }


def deal(rows: Sequence[Row], size: int, runtime: Runtime, pad: int) -> list[Pass]:
    """This rank's batches of at most `size` rows of like length; under sharding every rank gets equally many."""
    order = sorted(range(len(rows)), key=lambda i: (-_length(rows[i]), i))
    batches = [order[begin : begin + size] for begin in range(0, len(order), size)]
    mine = share(batches, runtime)
    real = len(mine)
    if runtime.sharded:
        mine += [batches[-1]] * (rounds(len(batches), runtime) - real)
    return [_pass([rows[i] for i in own], own, number < real, pad, runtime.device) for number, own in enumerate(mine)]


def _pass(rows: Sequence[Row], index: Sequence[int], real: bool, pad: int, device: torch.device) -> Pass:
    ids, mask, positions = pad_left([row.prompt + row.answer[:-1] for row in rows], pad, device)
    width = max(_places(row) for row in rows)
    labels = [[IGNORED] * (width - len(row.answer)) + list(row.answer) for row in rows]
    places = torch.tensor([_places(row) for row in rows], device=device)
    counted = torch.arange(width, device=device)[None] >= width - places[:, None]
    return Pass(
        torch.tensor(index, device=device),
        ids,
        mask,
        positions,
        torch.tensor(labels, device=device),
        counted,
        real,
    )


def _places(row: Row) -> int:
    return max(1, len(row.answer))


def _length(row: Row) -> int:
    return len(row.prompt) + max(0, len(row.answer) - 1)
