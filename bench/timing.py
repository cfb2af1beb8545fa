"""Timing of alternatives against each other on a machine that is never quite quiet."""

from __future__ import annotations

import statistics
import threading
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


def in_lockstep(
    runs: Mapping[str, Callable[[Callable[[], None]], object]], rounds: int, now: Callable[[], float], warm_up: int = 1
) -> dict[str, list[list[float]]]:
    """Seconds of every step of two programs that take turns step by step, so that both meet the same machine.

    Each program runs in a thread of its own and is alone while it computes: it gets a function that it calls after
    every step, which returns when the other one has done its step too.

    Args:
        runs: Two programs by name; both must take the same number of steps.
        rounds: How often both run from beginning to end; who begins alternates.
        now: The clock.
        warm_up: Rounds before those.

    Returns:
        By name: a list for each round, of the seconds of each step.
    """
    times: dict[str, list[list[float]]] = {name: [] for name in runs}
    names = list(runs)
    for turn in range(warm_up + rounds):
        order = names if turn % 2 else names[::-1]
        taken = _take_turns([runs[name] for name in order], now)
        for name, steps in zip(order, taken, strict=True):
            if turn >= warm_up:
                times[name].append(steps)
    return times


def _take_turns(
    programs: Sequence[Callable[[Callable[[], None]], object]], now: Callable[[], float]
) -> list[list[float]]:
    turns = [threading.Semaphore(int(first)) for first in (True, False)]
    taken: list[list[float]] = [[], []]
    failed: list[BaseException] = []

    def run(mine: int) -> None:
        begin = 0.0

        def step() -> None:
            nonlocal begin
            taken[mine].append(now() - begin)
            turns[1 - mine].release()
            turns[mine].acquire()
            begin = now()

        turns[mine].acquire()
        begin = now()
        try:
            programs[mine](step)
        except BaseException as error:
            failed.append(error)
        turns[1 - mine].release(10_000)  # the other one has nobody to wait for any more

    threads = [threading.Thread(target=run, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return taken


def step_ratio(times: Mapping[str, Sequence[Sequence[float]]], above: str, below: str) -> float:
    """Time of one program divided by the other's: medians over the rounds, of each step and of each difference.

    The difference of a step is formed within its round, where both did it one right after the other.
    """
    extra = whole = 0.0
    for ours, theirs in zip(zip(*times[above], strict=True), zip(*times[below], strict=True), strict=True):
        extra += statistics.median(a - b for a, b in zip(ours, theirs, strict=True))
        whole += statistics.median(theirs)
    return 1 + extra / whole


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
