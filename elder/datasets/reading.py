"""A count of what was read of a source and of what was left out. Knows nothing of how it is read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from elder.edit import Edit


@dataclass
class Reading:
    """What was read of a source, and what was left out.

    Attributes:
        records: Records that were read, those without an edit included.
        edits: Edits that came of them.
        rephrases: Rephrases of these edits.
        locality: Locality probes of these edits.
        portability: Portability probes of these edits.
        without_edit: Records that hold no edit, such as claims that FEVER leaves undecided.
        left_out: Probes that are in the file and cannot be used: why -> how many.
        unread: Fields that hold something and are not read -> in how many records.
    """

    records: int = 0
    edits: int = 0
    rephrases: int = 0
    locality: int = 0
    portability: int = 0
    without_edit: int = 0
    left_out: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)

    def add(self, edit: Edit) -> None:
        """Count an edit."""
        self.edits += 1
        self.rephrases += len(edit.rephrases)
        self.locality += len(edit.locality)
        self.portability += len(edit.portability)

    def lines(self) -> list[str]:
        """The count as sentences: what was read, and what was not if there is any."""
        found = [
            f"read: {self.records} records: {self.edits} edits, {self.rephrases} rephrases, {self.locality} locality "
            f"probes, {self.portability} portability probes"
        ]
        if self.without_edit:
            found.append(f"left out: {self.without_edit} records that hold no edit")
        if self.left_out:
            found.append(f"left out: {_listed(self.left_out)}")
        if self.unread:
            found.append(f"fields not read (in so many records): {_listed(self.unread)}")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The count as plain JSON values."""
        return {**vars(self), "left_out": dict(self.left_out), "unread": dict(self.unread)}


def _listed(counts: Counter[str], most: int = 30) -> str:
    shown = [f"{name} ({count})" for name, count in counts.most_common(most)]
    return ", ".join([*shown, f"and {len(counts) - most} more"] if len(counts) > most else shown)
