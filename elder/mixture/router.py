"""Guided routing: one query decides which low-rank maps each layer uses (ELDER, sections 3.2 and 3.3).

All layers read the same query, so their routers are one matrix product. The guided loss pulls them towards the maps
that an answer was allocated: drawn at random, different for every answer. Knows nothing of text or training.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from elder.errors import ConfigError


class Router(nn.Module):
    """p_l = softmax(W_l q + b_l) for every edited layer l.

    Args:
        width: Size of the query (D).
        layers: Number of edited layers (L).
        experts: Maps in each layer (N).
        bias: The reference code has one, the paper's formula has none.
        generator: Source of randomness.
    """

    def __init__(self, width: int, layers: int, experts: int, bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.layers, self.experts = layers, experts
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter((torch.rand(layers * experts, width, generator=generator) * 2 - 1) * bound)
        drawn = (torch.rand(layers * experts, generator=generator) * 2 - 1) * bound
        self.bias = nn.Parameter(drawn) if bias else None

    def forward(self, query: Tensor) -> Tensor:
        """Log-probabilities of every map.

        Args:
            query: (B, D).

        Returns:
            (B, L, N), float32; `exp` sums to 1 over N.
        """
        scores = F.linear(query.float(), self.weight, self.bias)
        return F.log_softmax(scores.view(-1, self.layers, self.experts), dim=-1)


def keep_top(log_p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest probabilities as they are (not renormalised), and which they were.

    Args:
        log_p: (..., N).
        k: How many to keep.

    Returns:
        weights (..., N) with zeros elsewhere, and the choice (..., N) as bool with exactly k ones.
    """
    chosen = torch.zeros_like(log_p, dtype=torch.bool)
    chosen.scatter_(-1, log_p.topk(k, dim=-1).indices, True)
    return log_p.exp() * chosen, chosen


def guided_loss(log_p: Tensor, allocation: Tensor) -> Tensor:
    """The guided loss of each row: -sum over layers and allocated maps of log p (ELDER, eq. 6).

    Its floor is L*k*ln(k), its value for an undecided router L*k*ln(N).

    Args:
        log_p: (B, L, N).
        allocation: (B, L, N) bool, k ones a layer.

    Returns:
        (B,).
    """
    return -(log_p * allocation).sum(dim=(-2, -1))


class Allocator:
    """Draws for each label a k-subset of the N maps in each of L layers, no two labels alike.

    The draw of a label depends on the seed and on how many labels came before it, so a stream that is continued
    draws what an uninterrupted one would.
    """

    def __init__(self, layers: int, experts: int, top_k: int, seed: int) -> None:
        self.layers, self.experts, self.top_k, self.seed = layers, experts, top_k, seed
        self._subsets = list(itertools.combinations(range(experts), top_k))
        self._of_label: dict[str, tuple[int, ...]] = {}
        self._taken: set[tuple[int, ...]] = set()

    @property
    def capacity(self) -> int:
        """How many different allocations there are: C(N, k)^L."""
        capacity: int = math.comb(self.experts, self.top_k) ** self.layers
        return capacity

    def allocate(self, labels: Sequence[str]) -> Tensor:
        """The allocations of the labels, drawing for those not seen before.

        Returns:
            (B, L, N) bool, k ones in each layer.

        Raises:
            ConfigError: There are more labels than allocations.
        """
        rows = torch.zeros(len(labels), self.layers, self.experts, dtype=torch.bool)
        for row, label in zip(rows, labels, strict=True):
            for layer, subset in enumerate(self._draw(label)):
                row[layer, list(self._subsets[subset])] = True
        return rows

    def _draw(self, label: str) -> tuple[int, ...]:
        if label in self._of_label:
            return self._of_label[label]
        if len(self._taken) >= self.capacity:
            raise ConfigError(
                f"editor: {len(self._taken)} different answers have used up all allocations of {self.layers} layers, "
                f"experts={self.experts}, top_k={self.top_k}; use more layers or experts"
            )
        rng = random.Random(f"{self.seed}/{len(self._of_label)}")
        while (drawn := tuple(rng.randrange(len(self._subsets)) for _ in range(self.layers))) in self._taken:
            pass
        self._of_label[label] = drawn
        self._taken.add(drawn)
        return drawn

    def to_json(self) -> list[list[object]]:
        """The labels and their draws in the order of drawing."""
        return [[label, list(drawn)] for label, drawn in self._of_label.items()]

    def load_json(self, items: list[list[object]]) -> None:
        """Take over what `to_json` gave."""
        self._of_label = {str(label): tuple(drawn) for label, drawn in items}  # type: ignore[arg-type]
        self._taken = set(self._of_label.values())
