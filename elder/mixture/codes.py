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
        choices = torch.zeros(self.subsets, experts, dtype=torch.bool)
        for i, picked in enumerate(itertools.combinations(range(experts), top_k)):
            choices[i, list(picked)] = True
        self._choices = choices.to(device)
        overlap = choices.float() @ choices.float().T
        self._subset_distance = (2 * (top_k - overlap)).to(torch.uint8)  # (S, S)
        powers = 1 << torch.arange(experts)
        lookup = torch.zeros(1 << experts, dtype=torch.long)
        lookup[(choices * powers).sum(-1)] = torch.arange(self.subsets)
        self._powers, self._subset_of = powers.to(device), lookup.to(device)
        self._place = (self.subsets ** torch.arange(layers - 1, -1, -1)).to(device)
        self.tabled = self.subsets**layers <= TABLE_LIMIT
        self._table = torch.full((self.subsets**layers if self.tabled else 0,), NEVER, dtype=torch.uint8, device=device)
        self._digits = torch.zeros(0, layers, dtype=torch.long)  # (M, L) unique codes by subset number
        self._known: set[tuple[int, ...]] = set()
        self.recorded = 0

    def __len__(self) -> int:
        """Number of different codes."""
        return len(self._known)

    def digits(self, chosen: Tensor) -> Tensor:
        """The number of the subset picked in each layer: (B, L, N) bool -> (B, L) long."""
        return self._subset_of[(chosen * self._powers).sum(-1)]

    def add(self, chosen: Tensor) -> None:
        """Store the codes of a batch, (B, L, N) bool."""
        fresh = []
        for row in self.digits(chosen).tolist():
            self.recorded += 1
            if tuple(row) not in self._known:
                self._known.add(tuple(row))
                fresh.append(row)
        if fresh:
            self._insert(torch.tensor(fresh))

    def nearest(self, chosen: Tensor) -> Tensor:
        """Hamming distance of each code to the nearest stored one.

        Args:
            chosen: (B, L, N) bool.

        Returns:
            (B,) long; 255 when nothing is stored.
        """
        digits = self.digits(chosen)
        if self.tabled:
            return self._table[(digits * self._place).sum(-1)].long()
        if not len(self):
            return torch.full((len(chosen),), NEVER, device=chosen.device)
        bits = self._choices[digits.to(self.device)].flatten(1).float()
        stored = self._choices[self._digits.to(self.device)].flatten(1).float()
        return (2 * (self.layers * self.top_k - (bits @ stored.T).amax(-1))).round().long()

    def codes(self) -> Tensor:
        """The different codes in order of arrival, (M, L*N) bool."""
        return self._choices.cpu()[self._digits].flatten(1)

    def state(self) -> Tensor:
        """The different codes as subset numbers, (M, L) int32, enough to build the store again."""
        return self._digits.to(torch.int32)

    def load(self, digits: Tensor, recorded: int) -> None:
        """Replace the content by what `state` gave."""
        self._table.fill_(NEVER)
        self._digits, self._known = self._digits[:0], {tuple(row) for row in digits.tolist()}
        self.recorded = recorded
        if len(digits):
            self._insert(digits.long())

    def _insert(self, digits: Tensor) -> None:
        self._digits = torch.cat([self._digits, digits])
        if not self.tabled:
            return
        for row in digits:  # one vectorised pass over the table for each new code
            distance = torch.zeros(1, dtype=torch.uint8)
            for digit in row:
                distance = (distance[:, None] + self._subset_distance[digit][None, :]).flatten()
            torch.minimum(self._table, distance.to(self.device), out=self._table)
