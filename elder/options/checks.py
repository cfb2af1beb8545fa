"""What is impossible about values of options, in sentences that begin with the option's name. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def at_least_one(options: Any, *names: str) -> list[str]:
    """Counts below 1."""
    return [
        f"{name}: must be at least 1, found {getattr(options, name)}" for name in names if getattr(options, name) < 1
    ]


def positive(options: Any, *names: str) -> list[str]:
    """Numbers that are not above 0, or not finite."""
    return [
        f"{name}: must be positive, found {getattr(options, name)}"
        for name in names
        if not 0 < getattr(options, name) < float("inf")
    ]


def not_negative(options: Any, *names: str) -> list[str]:
    """Numbers below 0, or not finite."""
    return [
        f"{name}: must not be negative, found {getattr(options, name)}"
        for name in names
        if not 0 <= getattr(options, name) < float("inf")
    ]


def rising_layers(layers: Sequence[int] | None) -> list[str]:
    """Block numbers that are none, twice there or out of order; None stands for a method's own."""
    if layers is None or (layers and list(layers) == sorted(set(layers)) and layers[0] >= 0):
        return []
    return [f"layers: expected different block numbers in rising order, found {list(layers)}"]


def bounded_change(max_change: float | None) -> list[str]:
    """A bound on ||D|| / ||W|| that nothing could pass; None is no bound."""
    return [] if max_change is None or max_change > 0 else [f"max_change: must be positive, found {max_change}"]
