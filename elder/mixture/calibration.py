"""Choosing a threshold between similarities that should pass and similarities that should not.

The similarities of an edit's own wordings are a fair sample of what should pass. What should not pass is known only
in part: the other edits are few and unlike most of the world. So the threshold sits just below the wanted ones, and
never below what other edits reach. Works on bounded samples, so its cost does not grow with the stream.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

TAIL = 0.02  # share of wanted similarities that may fall below the threshold before slack
ENOUGH = 8  # samples of a kind before it counts


class ThresholdCalibrator:
    """A threshold a little below the similarities that should pass.

    Args:
        prior: Threshold while there are too few samples.
        barred: Share of the unwanted samples that must stay below the threshold (unless that would bar half of the
            wanted ones).
        slack: Share of the gap to the unwanted samples that is given away to recall.
        limit: Samples kept of each kind; older ones are thinned out evenly.
    """

    def __init__(self, prior: float, barred: float, slack: float, limit: int = 2048) -> None:
        self.prior, self.barred, self.slack, self.limit = prior, barred, slack, limit
        self.wanted: list[float] = []
        self.unwanted: list[float] = []

    def observe(self, wanted: Sequence[float], unwanted: Sequence[float]) -> None:
        """Add samples of both kinds."""
        self.wanted = _thin(self.wanted + list(wanted), self.limit)
        self.unwanted = _thin(self.unwanted + list(unwanted), self.limit)

    @property
    def threshold(self) -> float:
        """The low tail of the wanted similarities, less some slack, kept above the unwanted ones."""
        if len(self.wanted) < ENOUGH:
            return self.prior
        low: float
        middle: float
        low, middle = torch.tensor(self.wanted).quantile(torch.tensor([TAIL, 0.5])).tolist()
        if len(self.unwanted) < ENOUGH:
            return low
        floor = float(torch.tensor(self.unwanted).quantile(self.barred))
        return min(max(low - self.slack * max(0.0, low - floor), floor), middle)


def _thin(values: list[float], limit: int) -> list[float]:
    """At most `limit` values, evenly picked in order of arrival."""
    if len(values) <= limit:
        return values
    return [values[i * len(values) // limit] for i in range(limit)]
