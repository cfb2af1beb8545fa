"""The order of trials, from better to worse. Pure arithmetic on names and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from elder.metrics.figures import SHARES, split_name


def metric_names(objective: Sequence[str], protocols: Sequence[str]) -> tuple[str, ...]:
    """Full names: a bare quantity is that under the first protocol."""
    return tuple(f"{name}.{protocols[0]}" if name in SHARES else name for name in objective)


def quantity_of(name: str) -> str:
    """The quantity of a metric, without its protocol."""
    return split_name(name)[0]


def objective_value(metrics: Mapping[str, float], names: Sequence[str]) -> float | None:
    """One metric as it is, or the harmonic mean of several, which is 0 when one of them is not above 0.

    Returns:
        None when a metric was not measured or is not a finite number.
    """
    values = [metrics.get(name) for name in names]
    if any(value is None or not math.isfinite(value) for value in values):
        return None
    numbers = [float(value) for value in values if value is not None]
    if len(numbers) == 1:
        return numbers[0]
    if min(numbers) <= 0:
        return 0.0
    return len(numbers) / sum(1 / value for value in numbers)


def unmeasured(metrics: Mapping[str, float], names: Sequence[str]) -> list[str]:
    """The metrics of an objective that are missing or not finite."""
    return [name for name in names if metrics.get(name) is None or not math.isfinite(metrics[name])]


def better(one: float, other: float, mode: str) -> bool:
    """Whether an objective is strictly better than another; `mode` is max or min."""
    return one > other if mode == "max" else one < other


def worst(mode: str) -> float:
    """An objective that every other is better than, for what has none."""
    return -math.inf if mode == "max" else math.inf


def pareto(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other beats: both coordinates are to be large. In order of the first."""
    front = [i for i, (x, y) in enumerate(points) if not any(a >= x and b >= y and (a > x or b > y) for a, b in points)]
    return sorted(front, key=lambda i: points[i])
