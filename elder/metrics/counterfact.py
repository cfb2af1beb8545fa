"""The scores of CounterFact, under the names of their paper (ROME, 2202.05262).

They compare the likelihood of two answers, the new and the true one, instead of asking what the model
says; so they stand beside the protocols `generate` and `forced`, never in their place. Pure functions
on likelihoods; knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean


@dataclass(frozen=True, slots=True)
class Contest:
    """Mean negative log likelihoods per token, in nats, of both answers behind one prompt."""

    new: float
    true: float

    @property
    def new_wins(self) -> bool:
        """Whether the new answer is strictly more likely."""
        return self.new < self.true

    @property
    def true_wins(self) -> bool:
        """Whether the true answer is strictly more likely."""
        return self.true < self.new

    @property
    def margin(self) -> float:
        """exp(-nll) of the new answer minus that of the true one: per-token geometric mean probabilities."""
        return math.exp(-self.new) - math.exp(-self.true)


@dataclass(frozen=True, slots=True)
class Record:
    """All contests of one edit: its prompt, its paraphrases, its neighbourhood prompts."""

    rewrite: Contest
    paraphrases: Sequence[Contest] = ()
    neighborhood: Sequence[Contest] = ()

    def scores(self) -> dict[str, float]:
        """ES, PS, NS and the magnitudes EM, PM, NM of this record, as far as it has the prompts."""
        values = {"counterfact.ES": float(self.rewrite.new_wins), "counterfact.EM": self.rewrite.margin}
        if self.paraphrases:
            values["counterfact.PS"] = fmean(c.new_wins for c in self.paraphrases)
            values["counterfact.PM"] = fmean(c.margin for c in self.paraphrases)
        if self.neighborhood:
            values["counterfact.NS"] = fmean(c.true_wins for c in self.neighborhood)
            values["counterfact.NM"] = fmean(-c.margin for c in self.neighborhood)
        return values


def counterfact_scores(records: Sequence[Record]) -> dict[str, float]:
    """Means over records of the per-record scores, and S, all as shares of 1 (papers print them times 100).

    S is the harmonic mean of the three means ES, PS and NS (not a mean of per-record harmonic means); it
    is left out when one of them is missing.
    """
    collected: dict[str, list[float]] = {}
    for record in records:
        for name, value in record.scores().items():
            collected.setdefault(name, []).append(value)
    means = {name: fmean(values) for name, values in collected.items()}
    parts = [means.get(f"counterfact.{name}") for name in ("ES", "PS", "NS")]
    present = [part for part in parts if part is not None]
    if len(present) == 3:
        means["counterfact.S"] = harmonic_mean(present)
    return means


def harmonic_mean(values: Sequence[float]) -> float:
    """Harmonic mean of non-negative numbers; 0 when one of them is 0."""
    return 0.0 if min(values) <= 0 else len(values) / sum(1 / value for value in values)
