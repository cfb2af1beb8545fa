"""Which point a trial tries: a pure function of the search's seed, the trial's number and what is known by then.

So a search that was interrupted asks for the same points again, without any state of a searcher having survived.
Knows nothing of Ray or stores.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elder.pipelines.config.space import Domain, draw_point, grid_points
from elder.pipelines.search.optuna_tpe import Past, suggest_tpe

TRIES = 1000  # points drawn for one trial before the space is called impossible
STARTUP = (5, 10)  # TPE draws at random until so many trials have a value: a quarter of all, within these bounds

Searcher = Callable[[int, Sequence[Past]], dict[str, Any] | None]
"""(number of the trial, what is known) -> the point, or None when there is none left."""


def make_searcher(
    name: str,
    space: Mapping[str, Domain],
    seed: int,
    trials: int,
    mode: str,
    possible: Callable[[Mapping[str, Any]], bool],
) -> Searcher:
    """A searcher by name.

    Args:
        name: random, tpe or grid.
        space: Where to look.
        seed: Of the search.
        trials: How many there will be.
        mode: max or min.
        possible: Whether a point gives a config that can run; others are passed over.
    """

    def draw(number: int, past: Sequence[Past]) -> dict[str, Any] | None:
        points = (draw_point(space, random.Random(f"{seed}/{number}/{attempt}")) for attempt in range(TRIES))
        return next((point for point in points if possible(point)), None)

    def tpe(number: int, past: Sequence[Past]) -> dict[str, Any] | None:
        startup = min(max(STARTUP[0], trials // 4), STARTUP[1])
        if sum(one.status in ("finished", "pruned") for one in past) < startup:
            return draw(number, past)
        for attempt in range(TRIES // 10):
            point = suggest_tpe(space, past, mode, _number(f"{seed}/{number}/{attempt}"), startup)
            if possible(point):
                return point
        return draw(number, past)

    def grid(number: int, past: Sequence[Past]) -> dict[str, Any] | None:
        return next(itertools.islice(filter(possible, grid_points(space)), number, None), None)

    return {"random": draw, "tpe": tpe, "grid": grid}[name]


def _number(text: str) -> int:
    """A seed of 31 bits."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 1
