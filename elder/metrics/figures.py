"""Names of figures: which are measured under a protocol, in which part, and which are the better the smaller.

Plain values, for configs, gates, tables and pages.
"""

from __future__ import annotations

from elder.metrics.after_answer import EDITED, RATIO
from elder.metrics.near import NEAR

NEAR_LOCALITY = {kind: f"locality.{kind}" for kind in NEAR}

SHARES = (
    "reliability",
    "generalization",
    "locality",
    "locality_answer",
    "portability",
    *NEAR_LOCALITY.values(),
    "alias",
    "stale",
)
"""Shares of 1 with a figure for each protocol."""

SCOPES = ("scope.edits", "scope.rephrases", "scope.locality", *(f"scope.{kind}" for kind in NEAR), "scope.alias")
"""Shares of 1 without a protocol."""

AMOUNTS = ("perplexity", EDITED, RATIO)
"""Amounts without a protocol, the better the smaller."""

OUTSIDE = ("scope.locality", *(f"scope.{kind}" for kind in NEAR))
CEILINGS = (*AMOUNTS, "stale", *OUTSIDE)
"""Figures that are the better the smaller."""

PARTS_OF: dict[str, tuple[str, ...]] = {
    "locality_answer": ("locality",),
    **{name: (kind, "locality") for kind, name in NEAR_LOCALITY.items()},
    "alias": ("generalization",),
    EDITED: ("after_answer",),
    RATIO: ("after_answer",),
    **dict.fromkeys(SCOPES, ("scope",)),
}
"""The parts of a measurement any of which gives a figure; of others it has their name."""


def split_name(name: str) -> tuple[str, str]:
    """A figure's quantity and protocol; the protocol is empty in a bare quantity."""
    for quantity in sorted((*SHARES, *SCOPES, *AMOUNTS), key=len, reverse=True):
        if name == quantity or name.startswith(f"{quantity}."):
            return quantity, name[len(quantity) + 1 :]
    quantity, _, protocol = name.partition(".")
    return quantity, protocol


def parts_of(quantity: str) -> tuple[str, ...]:
    """The parts of a measurement any of which gives a quantity."""
    return PARTS_OF.get(quantity, (quantity,))
