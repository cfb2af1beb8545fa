"""Plots of a run as PNG bytes: scores over edits, retention as a heat map, scope rates, training loss.

Pure functions on plain numbers. Knows nothing of runs, stores or trackers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from elder.metrics.figures import SCOPES, SHARES
from elder.pipelines.pages.axes import COLOURS, Series, describe, line_plot, numbered, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LINES = {"generate": "-", "forced": "--"}


def edits_applied(stages: Sequence[Mapping[str, Any]]) -> list[int]:
    """How many edits had been applied after each stage.

    `edits` of a stage may be its own number or the number so far. Stages of a stream are of one size, but
    for a smaller last one, so strictly growing numbers can only be numbers so far.
    """
    numbers = [int(stage["edits"]) for stage in stages]
    if all(later > earlier for earlier, later in pairwise(numbers)):
        return numbers
    return list(accumulate(numbers))


def scores_over_edits(stages: Sequence[Mapping[str, Any]]) -> bytes | None:
    """All shares that were measured after every stage, one line for each protocol.

    Args:
        stages: `stages` of a run's result; each has `edits` and `metrics`.

    Returns:
        A PNG, or None when no stage has such a metric.
    """
    lines = [
        Series(metric, _points(stages, metric), {**numbered(number), "linestyle": style})
        for number, quantity in enumerate(SHARES)
        for protocol, style in LINES.items()
        if (metric := f"{quantity}.{protocol}")
    ]
    return line_plot(lines, "edits applied", "share right", "Scores after every stage", scale="share")


def scope_over_edits(stages: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Which share of edits, held-out rephrases, unrelated prompts and other kinds the edits are active for."""
    lines = [Series(metric, _points(stages, metric), numbered(number)) for number, metric in enumerate(SCOPES)]
    return line_plot(lines, "edits applied", "share in scope", "Inputs inside the deferral scope", scale="share")


def retention_map(matrix: Sequence[Sequence[float]], metric: str = "reliability") -> bytes | None:
    """The retention matrix as a heat map: row i is measured after stage i, column j holds the edits of stage j."""
    if not matrix:
        return None

    def draw(axes: Axes) -> None:
        size = len(matrix)
        grid = [[float(row[j]) if j <= i else float("nan") for j in range(size)] for i, row in enumerate(matrix)]
        image = axes.imshow(grid, vmin=0.0, vmax=1.0, cmap="cividis", aspect="equal")
        if size <= 12:
            for i, row in enumerate(grid):
                for j in range(i + 1):
                    shade = "white" if row[j] < 0.6 else "black"
                    axes.text(j, i, f"{row[j]:.2f}", ha="center", va="center", color=shade, fontsize=8)
        ticks = list(range(0, size, max(1, size // 10)))
        axes.set_xticks(ticks)
        axes.set_yticks(ticks)
        describe(axes, "edits of stage", "measured after stage", f"Retention: {metric}")
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04)
        bar.set_label(metric)

    return to_png(draw, (5.6, 4.6))


def training_loss(losses: Sequence[Sequence[float]]) -> bytes | None:
    """Training loss of every batch at its first and at its last step.

    Args:
        losses: `(batches, steps)`, as in `Receipt.losses`, all stages one after another, in nats.
    """
    batches = [[float(value) for value in batch] for batch in losses if len(batch)]
    lines = [
        Series(label, [(x, batch[step]) for x, batch in enumerate(batches, 1)], {"color": colour, "marker": "o"})
        for label, step, colour in (("first step", 0, COLOURS[1]), ("last step", -1, COLOURS[0]))
    ]
    positive = all(min(batch[0], batch[-1]) > 0 for batch in batches)
    axis = "training loss (nats)"
    return line_plot(lines, "batch of edits", axis, "Training loss", scale="log" if positive else "linear")


def _points(stages: Sequence[Mapping[str, Any]], metric: str) -> list[tuple[float, float]]:
    figures = [(stage.get("metrics") or {}).get(metric) for stage in stages]
    return [(edits, float(y)) for edits, y in zip(edits_applied(stages), figures, strict=True) if y is not None]
