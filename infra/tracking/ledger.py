"""Which metric points a run has already, so that a resumed driver does not log them twice. Knows no server."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass

Points = dict[tuple[int, str], int]  # (step, value in a form that NaN equals itself in) -> timestamp in ms


@dataclass(frozen=True)
class Point:
    """One number of a curve; `fresh` when the run does not have it yet."""

    key: str
    value: float
    step: int
    timestamp: int
    fresh: bool


class MetricLedger:
    """Remembers points by (name, step, value).

    Args:
        history: Gives the points that a run has under a name, as (step, value, timestamp in ms); asked once
            for each name.
    """

    def __init__(self, history: Callable[[str], Iterable[tuple[int, float, int]]]) -> None:
        self._history = history
        self._points: dict[str, Points] = {}

    def point(self, key: str, value: float, step: int, now: int) -> Point:
        """The point as it is to be logged: with the time of its first logging, if there was one."""
        if key not in self._points:
            self._points[key] = {(old, _form(number)): time for old, number, time in self._history(key)}
        number = min(max(value, -sys.float_info.max), sys.float_info.max) if not math.isnan(value) else value
        mark = (step, _form(number))
        known = self._points[key].get(mark)
        return Point(key, number, step, now if known is None else known, known is None)

    def commit(self, points: Iterable[Point]) -> None:
        """These points have reached the server."""
        for point in points:
            self._points[point.key].setdefault((point.step, _form(point.value)), point.timestamp)


def _form(value: float) -> str:
    return repr(float(value))
