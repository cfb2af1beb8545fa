"""The store of binary routing codes and its Hamming deferral (ELDER, section 3.4).

A code is which k of N maps the routers picked in each of L layers, so there are only C(N, k)^L codes, each with a
number. For the settings that people use (46,656 for L=6, N=4, k=2) the distance of *every* possible code to the
nearest stored one fits into a table of bytes: a look-up is one index, whatever the number of stored edits. Larger code
spaces fall back to a comparison with the unique stored codes.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

TABLE_LIMIT = 1 << 22  # codes; a byte each
NEVER = 255


class CodeStore:
    """Unique codes seen in training and the distance of any code to the nearest of them.

    Args:
        layers: L.
        experts: N.
        top_k: k.
        device: Where look-ups happen.
    """

    def __init__(self, layers: int, experts: int, top_k: int, device: torch.device) -> None:
        self.layers, self.experts, self.top_k, self.device = layers, experts, top_k, device
        self.subsets = math.comb(experts, top_k)
        self.tabled = self.subsets**layers <= TABLE_LIMIT
        # the subset {c_1 < ... < c_k} has the number C(c_1, 1) + ... + C(c_k, k)
        binomials = [[math.comb(c, i + 1) for i in range(top_k)] for c in range(experts)]
        self._binomials = torch.tensor(binomials, device=device) if self.tabled else None
        self._place = (self.subsets ** torch.arange(layers - 1, -1, -1)).to(device) if self.tabled else None
        self._subset_distance = _subset_distances(experts, top_k) if self.tabled else None
        self._table = torch.full((self.subsets**layers if self.tabled else 0,), NEVER, dtype=torch.uint8, device=device)
        self._codes = torch.zeros(0, layers, experts, dtype=torch.bool)  # the different codes, on the CPU
        self._known: set[bytes] = set()
        self.recorded = 0

    def __len__(self) -> int:
        """Number of different codes."""
        return len(self._known)

    def numbers(self, chosen: Tensor) -> Tensor:
        """The number of the subset picked in each layer: (B, L, N) bool -> (B, L) long (small code spaces only)."""
        assert self._binomials is not None
        picked = chosen.nonzero()[:, 2].view(len(chosen), self.layers, self.top_k)
        return self._binomials[picked, torch.arange(self.top_k, device=chosen.device)].sum(-1)

    def add(self, chosen: Tensor) -> None:
        """Store the codes of a batch, (B, L, N) bool."""
        fresh = []
        for row in chosen.cpu():
            self.recorded += 1
            name = row.numpy().tobytes()
            if name not in self._known:
                self._known.add(name)
                fresh.append(row)
        if fresh:
            self._insert(torch.stack(fresh))

    def nearest(self, chosen: Tensor) -> Tensor:
        """Hamming distance of each code to the nearest stored one.

        Args:
            chosen: (B, L, N) bool.

        Returns:
            (B,) long; 255 when nothing is stored.
        """
        if self._place is not None:
            return self._table[(self.numbers(chosen) * self._place).sum(-1)].long()
        if not len(self):
            return torch.full((len(chosen),), NEVER, device=chosen.device)
        bits, stored = chosen.flatten(1).float(), self._codes.to(chosen.device).flatten(1).float()
        return (2 * (self.layers * self.top_k - (bits @ stored.T).amax(-1))).round().long()

    def state(self) -> Tensor:
        """The different codes in order of arrival, (M, L, N) bool: enough to build the store again."""
        return self._codes.clone()

    def load(self, codes: Tensor, recorded: int) -> None:
        """Replace the content by what `state` gave."""
        self._table.fill_(NEVER)
        self._codes, self._known = self._codes[:0], {row.numpy().tobytes() for row in codes}
        self.recorded = recorded
        if len(codes):
            self._insert(codes)

    def _insert(self, codes: Tensor) -> None:
        self._codes = torch.cat([self._codes, codes])
        if self._subset_distance is None:
            return
        for row in self.numbers(codes.to(self.device)).cpu():  # one vectorised pass over the table for each new code
            distance = torch.zeros(1, dtype=torch.uint8)
            for number in row:
                distance = (distance[:, None] + self._subset_distance[number][None, :]).flatten()
            torch.minimum(self._table, distance.to(self.device), out=self._table)


def _subset_distances(experts: int, top_k: int) -> Tensor:
    """Hamming distance between any two subsets by their numbers, (S, S) uint8."""
    subsets = sorted(itertools.combinations(range(experts), top_k), key=lambda c: tuple(reversed(c)))
    bits = torch.zeros(len(subsets), experts)
    for i, picked in enumerate(subsets):
        bits[i, list(picked)] = 1
    return (2 * (top_k - bits @ bits.T)).round().to(torch.uint8)
