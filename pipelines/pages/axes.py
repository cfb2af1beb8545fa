"""The one manner of all plots: colours, axes, legends, lines and bars, as PNG bytes.

matplotlib is imported when a plot is drawn, without a display and without its global state; the same numbers give the
same bytes. Knows nothing of what is plotted.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#D55E00", "#56B4E9", "#000000", "#999999")
"""Colours of Okabe and Ito, which colour-blind readers can distinguish; markers differ as well."""
MARKERS = "os^vDPX*"
INK, FAINT, GREY = "#222222", "#dddddd", "#bbbbbb"
CROWDED = 60  # points of a line that are not marked any more


@dataclass(frozen=True)
class Series:
    """Points with a name: a line, or the bars of one colour.

    Attributes:
        label: For the legend.
        points: (place, height), by place.
        look: What matplotlib is given to draw it with.
    """

    label: str
    points: Sequence[tuple[float, float]]
    look: Mapping[str, Any] = field(default_factory=dict)


def numbered(number: int) -> dict[str, Any]:
    """The look of the line of a number."""
    return {"color": COLOURS[number % 8], "marker": MARKERS[number % 8]}


def line_plot(lines: Sequence[Series], x: str, y: str, title: str, *, scale: str = "") -> bytes | None:
    """Lines with a legend; None when there is nothing to draw.

    Args:
        lines: Those without points are left out.
        x: What is across.
        y: What is up.
        title: Above all.
        scale: `share` for heights of 0 to 1 over places from 0, `log`, or what fits the points.
    """
    drawn = [line for line in lines if line.points]
    if not drawn:
        return None

    def draw(axes: Axes) -> None:
        for line in drawn:
            marks = {"markersize": 4} if len(line.points) <= CROWDED else {"marker": None}
            axes.plot(*zip(*line.points, strict=True), label=line.label, **{**line.look, **marks})
        if scale == "share":
            share_axis(axes)
            axes.set_xlim(left=0)
        elif scale:
            axes.set_yscale(scale)
        describe(axes, x, y, title)
        legend(axes)

    return to_png(draw)


def draw_bars(axes: Axes, groups: Sequence[Series], names: Sequence[str]) -> None:
    """Bars side by side at the places 0, 1, ... that `names` are written below; shares of 1."""
    width = 0.8 / len(groups)
    for number, group in enumerate(groups):
        places = [x - 0.4 + width * (number + 0.5) for x, _ in group.points]
        axes.bar(places, [y for _, y in group.points], width=0.92 * width, label=group.label, **group.look)
    axes.set_xticks(range(len(names)), [text.replace(".", "\n", 1) for text in names])
    axes.set_ylim(0, 1.03)


def share_axis(axes: Axes) -> None:
    """Heights of 0 to 1, with room for the markers at both ends."""
    axes.set_ylim(-0.03, 1.03)


def describe(axes: Axes, x: str, y: str, title: str) -> None:
    """Write on the axes what they show."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, loc="left")


def legend(axes: Axes) -> None:
    """The legend, to the right of what is drawn."""
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def to_png(draw: Callable[[Axes], None], size: tuple[float, float] = (7.6, 3.8)) -> bytes:
    """Draw on one pair of axes and return it as PNG; `size` in inches."""

    def panel(figure: Figure) -> None:
        axes = figure.add_subplot()
        styled(axes)
        draw(axes)
        if axes.images:
            axes.grid(visible=False)

    return to_png_panels(panel, size)


def to_png_panels(draw: Callable[[Figure], None], size: tuple[float, float]) -> bytes:
    """Draw on a figure, which has as many axes as are put into it, and return it as PNG; `size` in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Figure = Figure(figsize=size, dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def styled(axes: Axes) -> None:
    """Two spines, small ticks, and a faint grid that everything else is drawn over."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    axes.set_axisbelow(True)
    axes.grid(color=FAINT, linewidth=0.6)
