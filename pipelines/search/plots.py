"""Plots of a search as PNG bytes: parallel coordinates, importance of parameters, Pareto front.

Pure functions on plain values, in the manner of `pipelines.pages.axes`. Knows nothing of searches, stores or trackers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from elder.pipelines.config.space import Domain
from elder.pipelines.pages.axes import COLOURS, GREY, INK, describe, legend, to_png

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MANY_TICKS = 6


def parallel_coordinates(
    space: Mapping[str, Domain], trials: Sequence[Mapping[str, Any]], mode: str = "max"
) -> bytes | None:
    """One line a trial through its parameters to its objective; the better, the darker and the further in front.

    Args:
        space: Key -> domain, in the order of the axes.
        trials: Each with `status`, `parameters` and `objective`. Trials that were stopped early are dashed and grey,
            those without an objective are left out.
        mode: Whether a large objective is good.
    """
    drawn = [trial for trial in trials if trial["objective"] is not None and math.isfinite(trial["objective"])]
    if not drawn:
        return None
    values = [float(trial["objective"]) for trial in drawn]
    low, high = min(values), max(values)

    def height(value: float) -> float:
        return (value - low) / (high - low) if high > low else 0.5

    def draw(axes: Axes) -> None:
        from matplotlib import colormaps

        shades, places = colormaps["cividis_r"], range(len(space) + 1)
        for trial in sorted(drawn, key=lambda t: (t["status"] == "finished", t["objective"] * (-1) ** (mode == "min"))):
            points = [domain.position(trial["parameters"][key]) for key, domain in space.items()]
            share = height(float(trial["objective"]))
            good = share if mode == "max" else 1 - share
            look: dict[str, Any] = {"color": GREY, "linestyle": "--", "linewidth": 0.8}
            if trial["status"] == "finished":
                look = {"color": shades(good), "linewidth": 1.0 + 1.5 * good}
            axes.plot(places, [*points, share], **look)
        for place, (_, domain) in enumerate(space.items()):
            _axis(axes, place, *_ticks(domain))
        _axis(axes, len(space), [0.0, 1.0] if high > low else [0.5], [f"{low:.3f}", f"{high:.3f}"])
        axes.set_xticks(list(places), [*space, "objective"], rotation=12)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
        axes.set_xlim(-0.2, len(space) + 0.4)
        axes.set_ylim(-0.06, 1.06)
        axes.set_title("Trials: parameters and objective (dashed: stopped early)", loc="left")

    return to_png(draw, (max(7.6, 1.6 * (len(space) + 1)), 4.2))


def importance_bars(shares: Mapping[str, float] | None, over: str) -> bytes | None:
    """How much each parameter tells good trials from the others; None when it is not known.

    Args:
        shares: Key -> share, largest first.
        over: Over which trials, for the title.
    """
    if not shares:
        return None

    def draw(axes: Axes) -> None:
        names = list(shares)[::-1]
        bars = axes.barh(names, [shares[name] for name in names], color=COLOURS[0], height=0.6)
        axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8, color=INK)
        axes.set_xlim(0, 1.1)
        describe(axes, "share (PED-ANOVA)", "", f"Importance of parameters ({over})")

    return to_png(draw, (7.6, 1.4 + 0.4 * len(shares)))


def pareto_front(points: Sequence[tuple[str, float, float]], front: Sequence[str]) -> bytes | None:
    """Reliability against locality of finished trials; those that no other beats in both are joined and named.

    Args:
        points: (name, reliability, locality).
        front: Names of the front, by rising reliability.
    """
    if not points:
        return None
    at = {name: (x, y) for name, x, y in points}

    def draw(axes: Axes) -> None:
        axes.scatter([x for _, x, _ in points], [y for _, _, y in points], s=22, color=GREY, label="finished trials")
        line = [at[name] for name in front]
        axes.plot(*zip(*line, strict=True), "-o", color=COLOURS[0], markersize=5, label="Pareto front")
        for place, names in _together(front, at).items():
            shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
            left = place[0] > sum(axes.get_xlim()) / 2
            axes.annotate(shown, place, textcoords="offset points", xytext=(-6 if left else 6, -10), fontsize=7,
                          ha="right" if left else "left", color=INK)  # fmt: skip
        describe(axes, "reliability", "locality", "Reliability against locality")
        legend(axes)

    return to_png(draw)


def _axis(axes: Axes, place: float, heights: Sequence[float], texts: Sequence[str]) -> None:
    axes.axvline(place, color=INK, linewidth=0.8, zorder=0.5)
    for height, text in zip(heights, texts, strict=False):
        axes.text(place + 0.03, height, text, fontsize=7, color=INK, va="center", zorder=5,
                  bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 0.5})  # fmt: skip


def _ticks(domain: Domain) -> tuple[list[float], list[str]]:
    values = list(domain.values)
    if domain.kind == "choice" and len(values) > MANY_TICKS:
        values = [values[0], values[-1]]
    return [domain.position(value) for value in values], [_short(value) for value in values]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list) and len(value) > 3:
        return f"[{value[0]}…{value[-1]}]"
    return str(value)


def _together(front: Sequence[str], at: Mapping[str, tuple[float, float]]) -> dict[tuple[float, float], list[str]]:
    """Names by place: several trials may have the very same figures."""
    found: dict[tuple[float, float], list[str]] = {}
    for name in front:
        found.setdefault(at[name], []).append(name)
    return found
