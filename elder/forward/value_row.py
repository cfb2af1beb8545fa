"""A text that is run while a value is optimised."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ValueRow:
    """One text that is run while a value is optimised.

    Attributes:
        edit: Number of the edit in its batch.
        ids: Token ids.
        at: Index of the subject's last token, where the value stands.
        places: Indices whose next-token distribution is looked at.
        labels: The tokens wanted there; empty for the row that must not change.
    """

    edit: int
    ids: tuple[int, ...]
    at: int
    places: tuple[int, ...]
    labels: tuple[int, ...] = ()
