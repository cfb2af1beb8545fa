"""Timing of alternatives against each other on a machine that is never quite quiet."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Times = Mapping[str, Sequence[float]]


def clock(threads: int) -> Callable[[], float]:
    """Seconds of computing with one thread (other programs then count less), of the wall clock with more."""
    return time.process_time if threads == 1 else time.perf_counter


def interleaved(
    runs: Mapping[str, Callable[[int], object]], repetitions: int, now: Callable[[], float], warm_up: int = 1
) -> dict[str, list[float]]:
    """Seconds of every run in every round; in a round all run once, in turn from another start.

    Args:
        runs: By name; called with the number of the round.
        repetitions: Rounds that count.
        now: The clock.
        warm_up: Rounds before those, numbered from 0 on like the others.
    """
    times: dict[str, list[float]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(warm_up + repetitions):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            begin = now()
            runs[name](turn)
            if turn >= warm_up:
                times[name].append(now() - begin)
    return times


def paired_ratio(times: Times, above: str, below: str) -> float:
    """Median over the rounds of one run's time divided by another's in the same round."""
    return statistics.median(a / b for a, b in zip(times[above], times[below], strict=True))


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Attributes:
        name: What was measured.
        ours: Its value, in `unit`; `other` likewise, of what it is compared with.
        ratio: As `relation` says.
        target: The bound of the ratio; None: for information.
        at_least: Whether the target is a lower bound.
    """

    name: str
    ours: float
    other: float
    unit: str
    ratio: float
    target: float | None = None
    at_least: bool = False

    @property
    def passed(self) -> bool:
        """Whether the ratio meets its target; True without one."""
        if self.target is None:
            return True
        return self.ratio >= self.target if self.at_least else self.ratio <= self.target

    def line(self) -> str:
        """Name, both values, ratio, target, verdict in columns."""
        bound = "" if self.target is None else f"{'>=' if self.at_least else '<='} {self.target:.2f}"
        verdict = "" if self.target is None else ("pass" if self.passed else "FAIL")
        return (
            f"{self.name:<58} {self.ours:>10.4g} {self.other:>10.4g} {self.unit:<8}"
            f" {self.ratio:>7.3f} {bound:>8} {verdict:>5}"
        )


HEAD = f"{'figure':<58} {'ours':>10} {'against':>10} {'unit':<8} {'ratio':>7} {'target':>8}"
