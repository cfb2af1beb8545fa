"""The training rows of all edits so far, from which earlier ones are replayed.

A row costs a few dozen bytes. What is drawn depends on seed and batch number only, so a resumed stream draws what an
undisturbed one does. Knows nothing of models.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from elder.mixture.samples import Row


class ReplayBuffer:
    """Rows of all accepted edits, with the number of their edit."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rows: list[Row] = []
        self.loss: list[float] = []

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.rows)

    def add(self, rows: Sequence[Row], losses: Sequence[float]) -> None:
        """Append rows; `owner` of a row is the number of its edit in the whole stream."""
        self.rows += rows
        self.loss += losses

    def drop(self, owners: set[int]) -> None:
        """Forget the rows of edits that have been replaced."""
        keep = [i for i, row in enumerate(self.rows) if row.owner not in owners]
        self.rows, self.loss = [self.rows[i] for i in keep], [self.loss[i] for i in keep]

    def draw(self, count: int, batch: int) -> list[int]:
        """Indices of rows to replay: half of them those with the highest last known loss, half at random."""
        if count >= len(self.rows):
            return list(range(len(self.rows)))
        rng = random.Random(f"{self.seed}/replay/{batch}")
        worst = sorted(range(len(self.rows)), key=lambda i: (-self.loss[i], i))[: count // 2]
        taken = set(worst)
        pool = rng.sample(range(len(self.rows)), min(len(self.rows), count + len(worst)))
        picked = worst + [i for i in pool if i not in taken][: count - len(worst)]
        rng.shuffle(picked)
        return picked

    def state(self) -> dict[str, Tensor]:
        """All rows as flat tensors: token ids, lengths, owners, losses."""
        flat = [i for row in self.rows for i in (*row.prompt, *row.answer)]
        shape = [(len(row.prompt), len(row.answer), row.owner) for row in self.rows]
        return {
            "tokens": torch.tensor(flat, dtype=torch.int32),
            "shape": torch.tensor(shape, dtype=torch.int32).reshape(-1, 3),
            "loss": torch.tensor(self.loss, dtype=torch.float64),
        }

    @staticmethod
    def problems(state: Mapping[str, Tensor]) -> list[str]:
        """Contradictions in a state of the right names and shapes."""
        rows, losses, tokens = len(state["shape"]), len(state["loss"]), len(state["tokens"])
        counted = int(state["shape"][:, :2].sum())
        wrong = [] if rows == losses else [f"'ledger.shape' has {rows} rows, 'ledger.loss' {losses}"]
        return wrong + ([] if counted == tokens else [f"'ledger.shape' counts {counted} tokens, there are {tokens}"])

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        tokens, self.rows, begin = state["tokens"].tolist(), [], 0
        for prompt, answer, owner in state["shape"].tolist():
            middle, end = begin + prompt, begin + prompt + answer
            self.rows.append(Row(tuple(tokens[begin:middle]), tuple(tokens[middle:end]), owner, ""))
            begin = end
        self.loss = state["loss"].tolist()
