"""Scores with their 95 % intervals, and what an edited model lost against the unedited one on the same items.

docs/metrics.md says which interval belongs to which score. Knows nothing of models.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

LEVEL = 0.95
Z = NormalDist().inv_cdf(0.5 + LEVEL / 2)
RESAMPLES = 2000


@dataclass(frozen=True)
class Scores:
    """What a model scored, item by item.

    Attributes:
        values: Score of each item, 0 to 1; of a perplexity the summed negative log-likelihoods, in nats.
        weights: What a value counts: 1, or of a perplexity the number of its tokens.
        groups: Name of the group of each item; groups count alike.
        perplexity: Whether the score is the exponential of the mean.
    """

    values: tuple[float, ...]
    weights: tuple[float, ...]
    groups: tuple[str, ...]
    perplexity: bool = False

    @property
    def right_or_wrong(self) -> bool:
        """Whether every item is simply right or wrong."""
        plain = not self.perplexity and len(set(self.groups)) == 1
        return plain and set(self.values) <= {0.0, 1.0}

    @property
    def value(self) -> float:
        """The score of the task."""
        return float(_means(self, _members(self))[0])


def with_interval(scores: Scores) -> dict[str, float]:
    """A score, with `low` and `high`: Wilson's interval of a share, else the percentiles of a bootstrap over items."""
    if scores.right_or_wrong:
        low, high = wilson(sum(scores.values), len(scores.values))
    else:
        low, high = _percentiles(_means(scores, _drawn(scores)))
    return {"value": scores.value, "low": low, "high": high}


def difference(before: Scores, after: Scores) -> dict[str, Any]:
    """After minus before on the same items: `value`, `low`, `high`, `method`; of shares also `gained`, `lost` and `p`.

    Raises:
        ValueError: The scores are not of the same items.
    """
    if (before.groups, before.weights) != (after.groups, after.weights):
        raise ValueError("the scores before and after are not of the same items")
    change = after.value - before.value
    if not (before.right_or_wrong and after.right_or_wrong):
        drawn = _drawn(before)
        low, high = _percentiles(_means(after, drawn) - _means(before, drawn))
        return {"value": change, "low": low, "high": high, "method": "paired bootstrap"}
    pairs = list(zip(before.values, after.values, strict=True))
    gained, lost = sum(a > b for b, a in pairs), sum(a < b for b, a in pairs)
    low, high = agresti_min(gained, lost, len(pairs))
    found = {"value": change, "low": low, "high": high, "method": "Agresti-Min"}
    return found | {"gained": gained, "lost": lost, "p": mcnemar(gained, lost)}


def wilson(right: float, count: int) -> tuple[float, float]:
    """Wilson's score interval of a share; it has a width where all or none are right too."""
    share, spread = right / count, Z * Z / count
    half = Z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    centre = share + spread / 2
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def agresti_min(gained: int, lost: int, count: int) -> tuple[float, float]:
    """Interval of the difference of two paired shares (Agresti and Min 2005: half an item is added to each cell).

    It has a width where no item changed: nothing seen on few items is not nothing.
    """
    more, less, all_of = gained + 0.5, lost + 0.5, count + 2
    change = (more - less) / all_of
    half = Z * math.sqrt(more + less - (more - less) ** 2 / all_of) / all_of
    return max(-1.0, change - half), min(1.0, change + half)


def mcnemar(gained: int, lost: int) -> float:
    """The exact two-sided p of McNemar's test: how likely so uneven a split is among the items that changed."""
    changed = gained + lost
    tail: float = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1)) / 2**changed
    return min(1.0, 2 * tail)


# ---- parts -----------------------------------------------------------------------------------------------------------


def _members(scores: Scores) -> list[NDArray[np.int64]]:
    """For each group the numbers of its items, (1, M)."""
    groups = np.array(scores.groups)
    return [np.flatnonzero(groups == name)[None] for name in dict.fromkeys(scores.groups)]


def _drawn(scores: Scores) -> list[NDArray[np.int64]]:
    """For each group the numbers of its items drawn anew, (RESAMPLES, M); the same for the same items."""
    source = np.random.default_rng(0)
    return [m[0][source.integers(m.shape[1], size=(RESAMPLES, m.shape[1]))] for m in _members(scores)]


def _means(scores: Scores, drawn: list[NDArray[np.int64]]) -> Values:
    """The score of each draw, (R,)."""
    values, weights = np.array(scores.values), np.array(scores.weights)
    means: Values = np.mean([values[d].sum(1) / weights[d].sum(1) for d in drawn], axis=0)
    finish: Callable[[Values], Values] = np.exp if scores.perplexity else np.asarray
    return finish(means)


def _percentiles(values: Values) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
