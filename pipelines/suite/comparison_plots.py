"""Plots of a comparison as PNG bytes, in the manner of `pipelines.pages.plots`. Pure functions on plain values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from elder.pipelines.pages.plots import edits_applied, to_png

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
MARKERS = "os^vDPX*"


def retention_curves(methods: Mapping[str, Mapping[str, Any]]) -> bytes | None:
    """What is left of the edits of the first stage as the stream grows, one line a method."""
    lines = {}
    for name, result in methods.items():
        matrix = result.get("retention") or []
        applied = edits_applied([stage for stage in result.get("stages", ()) if stage["committed"]])
        if len(matrix) > 1:
            lines[name] = (applied[: len(matrix)], [float(row[0]) for row in matrix])
    if not lines:
        return None

    def draw(axes: Any) -> None:
        for number, (name, (xs, ys)) in enumerate(lines.items()):
            axes.plot(xs, ys, color=COLOURS[number % 8], marker=MARKERS[number % 8], markersize=4, label=name)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(left=0)
        axes.set_xlabel("edits applied")
        axes.set_ylabel("reliability of the first stage's edits")
        axes.set_title("What is left of the oldest edits", loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)

    return to_png(draw)


def metric_bars(tables: Mapping[str, Mapping[str, float]], metrics: Sequence[str], title: str) -> bytes | None:
    """Metrics across, one bar a method."""
    shown = [name for name in metrics if any(name in table for table in tables.values())]
    if not shown:
        return None

    def draw(axes: Any) -> None:
        width = 0.8 / len(tables)
        for number, (name, table) in enumerate(tables.items()):
            places = [i - 0.4 + width * (number + 0.5) for i, metric in enumerate(shown) if metric in table]
            heights = [float(table[metric]) for metric in shown if metric in table]
            axes.bar(places, heights, width=width, color=COLOURS[number % 8], label=name)
        axes.set_xticks(range(len(shown)), [name.replace(".", "\n", 1) for name in shown])
        axes.set_ylim(0, 1.03)
        axes.set_title(title, loc="left")
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)

    return to_png(draw, (max(7.6, 1.1 * len(shown) + 2), 3.8))
