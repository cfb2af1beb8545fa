"""Plots of a study as PNG bytes: scores against an axis, ours in colour, published ones thin, grey and named as quoted.

Pure functions on plain values. Knows nothing of stores, configs or reports.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elder.pipelines.pages.axes import COLOURS, Series, draw_bars, numbered, share_axis, styled, to_png_panels

QUOTED_COLOURS, QUOTED_MARKERS = ("#555555", "#999999"), "x+1"
SHAPES = ("-", "--", "-.", ":")
HATCHES = ("///", "...", "\\\\\\")
COLUMNS, TICKS = 2, 16
TITLES = {
    "counterfact.ES": "ES: efficacy",
    "counterfact.PS": "PS: paraphrases",
    "counterfact.NS": "NS: neighbourhood",
    "counterfact.S": "S: harmonic mean of the three",
}
AXES = {"batch_size": "edits in a batch (log scale)", "layers": "edited block (0 is the first)"}

Points = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Line:
    """A row of points.

    Attributes:
        label: For the legend.
        points: (place on the axis, share), sorted.
        number: Decides colour and marker: one number a method, the same in every plot.
        shape: Decides the dashes: one number a strategy of the part.
        quoted: Somebody else's figures.
    """

    label: str
    points: Points
    number: int = 0
    shape: int = 0
    quoted: bool = False


def against_axis(panels: Mapping[str, Sequence[Line]], axis: str, source: str = "") -> bytes:
    """A panel a metric, a line a method and strategy, one legend for ours and one for what is quoted.

    Args:
        panels: Metric -> its lines.
        axis: `batch_size` (drawn logarithmically) or `layers`.
        source: Whose figures are quoted.
    """
    rows = -(-len(panels) // COLUMNS)

    def draw(figure: Any) -> None:
        grid = figure.subplots(rows, min(COLUMNS, len(panels)), sharex=True, squeeze=False)
        places = sorted({x for lines in panels.values() for line in lines for x, _ in line.points})
        for number, axes in enumerate(grid.flat):
            if number >= len(panels):
                axes.set_visible(False)
                continue
            metric = list(panels)[number]
            styled(axes)
            for line in sorted(panels[metric], key=lambda line: not line.quoted):  # ours lie on top
                axes.plot(*zip(*line.points, strict=True), label=line.label, **look(line))
            _scale(axes, axis, places)
            share_axis(axes)
            axes.set_title(TITLES.get(metric, metric), loc="left", fontsize=9)
            if number + COLUMNS >= len(panels):
                axes.tick_params(labelbottom=True)
                axes.set_xlabel(AXES[axis], fontsize=9)
        _legends(figure, [axes for axes in grid.flat if axes.get_visible()], source)

    return to_png_panels(draw, (9.6, 0.7 + 2.5 * rows))


def bars(panels: Mapping[str, Sequence[Line]], source: str = "") -> bytes:
    """Metrics across, a bar a method and strategy, for parts in which there is nothing to draw a line through.

    Args:
        panels: Metric -> its lines, of one point each where they are ours.
        source: Whose figures are quoted.
    """
    found: dict[str, tuple[Line, list[tuple[float, float]]]] = {}
    for place, lines in enumerate(panels.values()):
        for line in lines:
            found.setdefault(line.label, (line, []))[1].extend((place, share) for _, share in line.points)
    ours_first = sorted(found.values(), key=lambda pair: pair[0].quoted)
    groups = [Series(line.label, points, _fill(line)) for line, points in ours_first]

    def draw(figure: Any) -> None:
        axes = figure.subplots()
        styled(axes)
        draw_bars(axes, groups, [metric.removeprefix("counterfact.") for metric in panels])
        _legends(figure, [axes], source)

    return to_png_panels(draw, (9.6, 3.4))


def look(line: Line) -> dict[str, Any]:
    """The keywords that draw a line. The first method's is the widest: equal lines stay visible under each other."""
    if line.quoted:
        return {
            "color": QUOTED_COLOURS[line.number % 2], "marker": QUOTED_MARKERS[line.number % 3], "markersize": 5,
            "linewidth": 0.8, "linestyle": (0, (1, 2)),
        }  # fmt: skip
    manner = numbered(line.number)
    return {
        **manner, "markersize": max(7.0 - 1.5 * line.number, 4.0),
        "markerfacecolor": manner["color"] if line.shape == 0 else "white", "linestyle": SHAPES[line.shape % 4],
        "linewidth": max(2.4 - 0.6 * line.number, 1.2),
    }  # fmt: skip


def _fill(line: Line) -> dict[str, Any]:
    if line.quoted:
        return {"color": "white", "edgecolor": QUOTED_COLOURS[0], "hatch": HATCHES[line.number % 3], "linewidth": 0.8}
    colour = COLOURS[line.number % 8]
    return {"color": colour if line.shape == 0 else "white", "edgecolor": colour, "linewidth": 1.5}


def _scale(axes: Any, axis: str, places: Sequence[int]) -> None:
    """Batch sizes as they are, not as powers; blocks as whole numbers, no more of them than can be read."""
    if axis != "batch_size":
        axes.set_xticks(range(places[0], places[-1] + 1, -(-(places[-1] - places[0] + 1) // TICKS)))
        return
    axes.set_xscale("log", base=2)
    axes.set_xlim(places[0] / 1.4, places[-1] * 1.4)
    axes.set_xticks(places, [str(place) for place in places], rotation=45 if len(places) > 6 else 0)
    axes.minorticks_off()


def _legends(figure: Any, panels: Sequence[Any], source: str) -> None:
    """Ours above, what is quoted below, each name once, in the order of the methods."""
    found: dict[str, Any] = {}
    for axes in panels:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    ours = {label: handle for label, handle in found.items() if not label.startswith("quoted")}
    theirs = {label: handle for label, handle in found.items() if label.startswith("quoted")}
    common: dict[str, Any] = {"frameon": False, "fontsize": 8, "title_fontsize": 8, "alignment": "left"}
    figure.legend(list(ours.values()), list(ours), loc="outside right upper", title="measured here", **common)
    if theirs:
        title = f"not measured here:\n{source}"
        figure.legend(list(theirs.values()), list(theirs), loc="outside right lower", title=title, **common)
