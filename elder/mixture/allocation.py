"""Which low-rank maps an answer is to be tied to: drawn at random, different for every answer (ELDER, section 3.3)."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor

from elder.errors import ConfigError


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
