"""Plots of a run as PNG bytes: scores over edits, retention as a heat map, scope rates, training loss.

Pure functions on plain numbers; matplotlib is imported when a plot is drawn, without a display and without
its global state. Knows nothing of runs, stores or trackers.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {
    "reliability": "#0072B2",
    "generalization": "#E69F00",
    "locality": "#009E73",
    "locality_answer": "#CC79A7",
    "portability": "#D55E00",
    "scope.edits": "#0072B2",
    "scope.rephrases": "#E69F00",
    "scope.locality": "#009E73",
}
"""Colours of Okabe and Ito, told apart by colour-blind readers; markers differ as well."""

MARKERS = {
    "reliability": "o",
    "generalization": "s",
    "locality": "^",
    "locality_answer": "v",
    "portability": "D",
    "scope.edits": "o",
    "scope.rephrases": "s",
    "scope.locality": "^",
}
LINES = {"generate": "-", "forced": "--"}
INK, FAINT = "#222222", "#dddddd"


def edits_applied(stages: Sequence[Mapping[str, Any]]) -> list[int]:
    """How many edits had been applied after each stage.

    `edits` of a stage may be its own number or the number so far. Stages of a stream are of one size, but
    for a smaller last one, so strictly growing numbers can only be numbers so far.
    """
    numbers = [int(stage["edits"]) for stage in stages]
    if all(later > earlier for earlier, later in pairwise(numbers)):
        return numbers
    return [sum(numbers[: i + 1]) for i in range(len(numbers))]


def scores_over_edits(stages: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Reliability, generalization, locality and portability after every stage, one line for each protocol.

    Args:
        stages: `stages` of a run's result; each has `edits` and `metrics`.

    Returns:
        A PNG, or None when no stage has such a metric.
    """
    names = [
        f"{quantity}.{protocol}"
        for quantity in ("reliability", "generalization", "locality", "locality_answer", "portability")
        for protocol in LINES
    ]
    return _metric_lines(stages, names, "Scores after every stage", "share right")


def scope_over_edits(stages: Sequence[Mapping[str, Any]]) -> bytes | None:
    """Which share of edits, held-out rephrases and unrelated prompts the edits are active for."""
    names = ["scope.edits", "scope.rephrases", "scope.locality"]
    return _metric_lines(stages, names, "Inputs inside the deferral scope", "share in scope")


def curves(lines: Mapping[str, Sequence[float | None]], axis: str, title: str) -> bytes | None:
    """Figures over checkpoints or steps, one line each; None when there is nothing to draw."""
    known = {name: list(values) for name, values in lines.items() if any(value is not None for value in values)}
    if not known:
        return None

    def draw(axes: Axes) -> None:
        for name, values in known.items():
            drawn = [float("nan") if value is None else float(value) for value in values]
            axes.plot(range(len(drawn)), drawn, label=name, marker="o" if len(drawn) <= 60 else None, markersize=3)
        axes.set_xlabel(axis)
        axes.set_title(title, loc="left")
        axes.legend(frameon=False)

    return to_png(draw, (6.4, 3.6))


def retention_map(matrix: Sequence[Sequence[float]], name: str = "reliability") -> bytes | None:
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
        axes.set_xlabel("edits of stage")
        axes.set_ylabel("measured after stage")
        axes.set_title(f"Retention: {name}", loc="left")
        bar = axes.figure.colorbar(image, ax=axes, fraction=0.046, pad=0.04)
        bar.set_label(name)

    return to_png(draw, (5.6, 4.6))


def training_loss(losses: Sequence[Sequence[float]]) -> bytes | None:
    """Training loss of every batch at its first and at its last step.

    Args:
        losses: `(batches, steps)`, as in `Receipt.losses`, all stages one after another, in nats.
    """
    batches = [[float(value) for value in batch] for batch in losses if len(batch)]
    if not batches:
        return None

    def draw(axes: Axes) -> None:
        places = range(1, len(batches) + 1)
        marks: dict[str, Any] = {"marker": "o", "markersize": 3} if len(batches) <= 60 else {}
        axes.plot(places, [b[0] for b in batches], color=COLOURS["generalization"], label="first step", **marks)
        axes.plot(places, [b[-1] for b in batches], color=COLOURS["reliability"], label="last step", **marks)
        axes.set_xlabel("batch of edits")
        axes.set_ylabel("training loss (nats)")
        if min(min(b[0], b[-1]) for b in batches) > 0:
            axes.set_yscale("log")
        axes.set_title("Training loss", loc="left")
        _legend(axes)

    return to_png(draw)


def _metric_lines(stages: Sequence[Mapping[str, Any]], names: Sequence[str], title: str, label: str) -> bytes | None:
    applied = edits_applied(stages)
    lines: dict[str, list[tuple[int, float]]] = {}
    for edits, stage in zip(applied, stages, strict=True):
        for name in names:
            value = (stage.get("metrics") or {}).get(name)
            if value is not None:
                lines.setdefault(name, []).append((edits, float(value)))
    if not lines:
        return None

    def draw(axes: Axes) -> None:
        for name in names:
            if name in lines:
                kind = name if name in COLOURS else name.rsplit(".", 1)[0]
                style = LINES.get(name.rsplit(".", 1)[-1], "-")
                xs, ys = zip(*lines[name], strict=True)
                axes.plot(xs, ys, style, color=COLOURS[kind], marker=MARKERS[kind], markersize=4, label=name)
        axes.set_ylim(-0.03, 1.03)
        axes.set_xlim(left=0)
        axes.set_xlabel("edits applied")
        axes.set_ylabel(label)
        axes.set_title(title, loc="left")
        _legend(axes)

    return to_png(draw)


def _legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=8)


def to_png(draw: Callable[[Axes], None], size: tuple[float, float] = (7.6, 3.8)) -> bytes:
    """Draw on one pair of axes and return it as PNG; the same numbers give the same bytes."""

    def panel(figure: Figure) -> None:
        axes = figure.add_subplot()
        styled(axes)
        draw(axes)
        if axes.images:
            axes.grid(visible=False)

    return to_png_panels(panel, size)


def to_png_panels(draw: Callable[[Figure], None], size: tuple[float, float]) -> bytes:
    """Draw on a figure of its own, which has as many axes as are put into it, and return it as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure: Figure = Figure(figsize=size, dpi=110, layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    draw(figure)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def styled(axes: Axes) -> None:
    """The manner of all plots here: two spines, small ticks, a faint grid behind what is drawn."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(colors=INK, labelsize=8)
    axes.set_axisbelow(True)
    axes.grid(color=FAINT, linewidth=0.6)
