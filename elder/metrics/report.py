"""The outcome of one measurement: figures, and a row for each edit.

Knows nothing of models; plain values only, so that it can be written, logged and merged.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

from elder.edit import Edit


@dataclass(frozen=True)
class EvaluationReport:
    """What a measurement found.

    Attributes:
        metrics: Figures by name, `quantity.protocol`. A quantity that no edit has prompts for is left out,
            never reported as 0.
        rows: One for each edit, in the order given: `edit_id`, `prompt`, `target`, its figures under the same
            names, and what the model said (`reliability.generate.text`, ...).
        counts: For how many edits each figure of `metrics` is the mean.
        protocols: The protocols asked for.
    """

    metrics: dict[str, float]
    rows: list[dict[str, Any]]
    counts: dict[str, int] = field(default_factory=dict)
    protocols: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The report as plain JSON values."""
        return {
            "metrics": dict(self.metrics),
            "counts": dict(self.counts),
            "protocols": list(self.protocols),
            "rows": [dict(row) for row in self.rows],
        }

    def with_others(self, others: EvaluationReport, ending: str) -> EvaluationReport:
        """The report with the figures of another one on the same edits, under their names and an ending."""
        same = ("edit_id", "prompt", "target")
        return replace(
            self,
            metrics={**self.metrics, **{f"{name}{ending}": value for name, value in others.metrics.items()}},
            counts={**self.counts, **{f"{name}{ending}": value for name, value in others.counts.items()}},
            rows=[
                {**row, **{f"{name}{ending}": value for name, value in other.items() if name not in same}}
                for row, other in zip(self.rows, others.rows, strict=True)
            ],
        )

    def worst(self, count: int = 10) -> list[dict[str, Any]]:
        """The rows with the lowest mean over their reliability and generalization figures, worst first."""
        names = [f"{part}.{protocol}" for part in ("reliability", "generalization") for protocol in self.protocols]

        def merit(row: dict[str, Any]) -> float:
            values = [float(row[name]) for name in names if row.get(name) is not None]
            return fmean(values) if values else 1.0

        return sorted(self.rows, key=merit)[:count]


class ResultTable:
    """Collects values under (figure, edit) and turns them into a `EvaluationReport`.

    A figure of an edit is the mean of its values; a metric is the mean over the edits that have one, so
    an edit with ten rephrases weighs as much as an edit with one.
    """

    def __init__(self, edits: Sequence[Edit]) -> None:
        self._values: dict[str, dict[int, list[float]]] = {}
        self._rows: list[dict[str, Any]] = [
            {"edit_id": edit.id, "prompt": edit.prompt, "target": edit.target} for edit in edits
        ]

    def add(self, name: str, edit: int, value: float | bool) -> None:
        """One value of a figure for one edit."""
        self._values.setdefault(name, {}).setdefault(edit, []).append(float(value))

    def note(self, name: str, edit: int, value: Any) -> None:
        """A field of a row that is no figure, such as a text."""
        self._rows[edit][name] = value

    def append(self, name: str, edit: int, value: Any) -> None:
        """One more item of a list field of a row."""
        self._rows[edit].setdefault(name, []).append(value)

    def report(self, protocols: Sequence[str], extra: dict[str, float] | None = None) -> EvaluationReport:
        """The means, with figures that have no rows of their own in `extra`."""
        metrics: dict[str, float] = {}
        counts: dict[str, int] = {}
        for name, by_edit in sorted(self._values.items()):
            means = {edit: fmean(values) for edit, values in by_edit.items()}
            for edit, mean in means.items():
                self._rows[edit][name] = mean
            metrics[name] = fmean(means.values())
            counts[name] = len(means)
        metrics.update(extra or {})
        return EvaluationReport(metrics=metrics, rows=self._rows, counts=counts, protocols=tuple(protocols))
