"""The space of a search: which values each key may take, as data, and how a point of it is drawn.

A domain is written `{loguniform: [1e-5, 1e-2]}`, `{uniform: [0, 1]}`, `{int: [1, 24]}`, `{logint: [4, 64]}` or
`{choice: [...]}`. Pure: numbers and names. Knows nothing of configs, searchers or Ray.
"""

from __future__ import annotations

import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elder.options.messages import suggestion

RANGES = ("loguniform", "uniform", "int", "logint")
KINDS = (*RANGES, "choice")
KNOWN = ", ".join(KINDS)
DIGITS = 6  # significant digits of a drawn number: more would say nothing and cannot be copied by hand
INSIDE = 0.381966  # where between its ends a range is tried, besides the ends; no round number

Parameters = Mapping[str, Any]
"""Dotted config key -> value: one point of a space."""


@dataclass(frozen=True)
class Domain:
    """The values that one key may take.

    Attributes:
        kind: One of `KINDS`.
        values: The two ends of a range, or all values of a choice.
    """

    kind: str
    values: tuple[Any, ...]

    @property
    def log(self) -> bool:
        """Whether the range is even on a logarithmic scale."""
        return self.kind in ("loguniform", "logint")

    @property
    def whole(self) -> bool:
        """Whether the range holds whole numbers only."""
        return self.kind in ("int", "logint")

    def draw(self, generator: random.Random) -> Any:
        """A value at random: even over the range (or its logarithm), or over the choices."""
        if self.kind == "choice":
            return self.values[generator.randrange(len(self.values))]
        return self.at(generator.random())

    def at(self, share: float) -> Any:
        """The value at a share of the way from the lower to the upper end, 0 <= share <= 1."""
        low, high = self.values
        if self.whole:
            # Every whole number has an equal part of [low, high + 1), or of its logarithm.
            top = high + 1
            found = math.exp(math.log(low) + share * math.log(top / low)) if self.log else low + share * (top - low)
            return min(int(found), high)
        found = math.exp(math.log(low) + share * math.log(high / low)) if self.log else low + share * (high - low)
        return min(max(float(f"{found:.{DIGITS}g}"), low), high)

    def grid(self) -> tuple[Any, ...] | None:
        """All values in order, or None where there is no end of them."""
        if self.kind == "choice":
            return self.values
        return tuple(range(self.values[0], self.values[1] + 1)) if self.kind == "int" else None

    def samples(self) -> tuple[Any, ...]:
        """Values that represent all: every choice, or the ends of a range and one value between them."""
        if self.kind == "choice":
            return self.values
        return tuple(dict.fromkeys((*self.values, self.at(INSIDE))))

    def position(self, value: Any) -> float:
        """The place of a value between the ends, 0 to 1, for plots."""
        if self.kind == "choice":
            return self.values.index(value) / max(1, len(self.values) - 1)
        low, high = self.values
        if self.log:
            return math.log(value / low) / math.log(high / low)
        return float((value - low) / (high - low))

    def to_plain(self) -> dict[str, list[Any]]:
        """As it is written in YAML."""
        return {self.kind: [list(v) if isinstance(v, tuple | list) else v for v in self.values]}


def flatten_space(given: Mapping[str, Any]) -> dict[str, Any]:
    """Nested and dotted keys of a written space as dotted keys -> written domain; later ones win, null takes out."""
    found: dict[str, Any] = {}
    _flatten(given, "", found)
    return found


def _flatten(given: Mapping[str, Any], prefix: str, found: dict[str, Any]) -> None:
    for name, value in given.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not _looks_like_domain(value):
            _flatten(value, f"{key}.", found)
            continue
        found.pop(key, None)
        if value is not None:
            found[key] = value


def _looks_like_domain(value: Mapping[str, Any]) -> bool:
    """A domain, or a mistyped one such as `{loguniforn: [1, 2]}`: one name with a list as its value."""
    return bool(set(value) & set(KINDS)) or (len(value) == 1 and isinstance(next(iter(value.values())), list))


def read_domain(given: Any) -> tuple[Domain | None, str | None]:
    """A written domain, or what is wrong with it."""
    forms = "expected one of {loguniform: [a, b]}, {uniform: [a, b]}, {int: [a, b]}, {logint: [a, b]}, {choice: [...]}"
    if not isinstance(given, Mapping) or len(given) != 1:
        return None, f"{forms}; found {json.dumps(given, default=str)}"
    kind, values = next(iter(given.items()))
    if kind not in KINDS:
        return None, f"unknown kind '{kind}'{suggestion(str(kind), KINDS) or f' (known: {KNOWN})'}"
    if not isinstance(values, list | tuple):
        return None, f"{kind}: expected a list, found {values!r}"
    return _read_choice(values) if kind == "choice" else _read_range(str(kind), values)


def _read_choice(values: Sequence[Any]) -> tuple[Domain | None, str | None]:
    if not values:
        return None, "choice: the list is empty"
    if any(isinstance(value, Mapping) for value in values):
        return None, "choice: expected plain values or lists, found a section of keys"
    texts = [json.dumps(value, sort_keys=True, default=str) for value in values]
    if len(set(texts)) < len(texts):
        return None, "choice: the list names something twice"
    return Domain("choice", tuple(list(value) if isinstance(value, tuple) else value for value in values)), None


def _read_range(kind: str, values: Sequence[Any]) -> tuple[Domain | None, str | None]:
    numbers = [value for value in values if isinstance(value, int | float) and not isinstance(value, bool)]
    if len(values) != 2 or len(numbers) != 2 or not all(map(math.isfinite, numbers)):
        return None, f"{kind}: expected two numbers [least, most], found {list(values)}"
    low, high = numbers
    if low >= high:
        return None, f"{kind}: the least, {low}, must be smaller than the most, {high}"
    if kind in ("loguniform", "logint") and low <= 0:
        return None, f"{kind}: the least must be greater than 0, found {low}"
    if kind in ("int", "logint"):
        if low != int(low) or high != int(high):
            return None, f"{kind}: expected whole numbers, found [{low}, {high}]"
        return Domain(kind, (int(low), int(high))), None
    return Domain(kind, (float(low), float(high))), None


def grid_points(space: Mapping[str, Domain]) -> Iterator[dict[str, Any]]:
    """Every combination of the values, the last key changing fastest. All domains must have a grid."""
    columns = [domain.grid() or () for domain in space.values()]
    for values in itertools.product(*columns):
        yield dict(zip(space, values, strict=True))


def draw_point(space: Mapping[str, Domain], generator: random.Random) -> dict[str, Any]:
    """One point at random."""
    return {key: domain.draw(generator) for key, domain in space.items()}
