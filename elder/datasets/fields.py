"""Reads the fields of one record of a foreign layout and remembers everything that is wrong with it.

Knows nothing of files or of particular datasets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from elder.edit import Probe
from elder.errors import DataError

TARGETS = ("alt", "answer")


@dataclass(frozen=True)
class LayoutOptions:
    """What a user may choose about how records become edits.

    Attributes:
        locality_probes: At most so many locality probes an edit (None: all there are).
        target: For zsRE and FEVER: `alt`, the counterfactual answer, or `answer`, the true one.
        max_words: For SCOTUS: how many words of an opinion are kept.
        labels: For SCOTUS: names of the labels when they are numbers.
    """

    locality_probes: int | None = 10
    target: str = "alt"
    max_words: int = 300
    labels: tuple[str, ...] = ()

    def problems(self) -> list[str]:
        """What is wrong with the choices, in words."""
        found = []
        if self.locality_probes is not None and self.locality_probes < 0:
            found.append(f"locality_probes must be 0 or more, found {self.locality_probes}")
        if self.target not in TARGETS:
            found.append(f"target must be one of {', '.join(TARGETS)}, found '{self.target}'")
        if self.max_words < 1:
            found.append(f"max_words must be 1 or more, found {self.max_words}")
        return found


class Fields:
    """The fields of one record; `problems` grows with every field that is not as it should be."""

    def __init__(self, record: Mapping[str, Any], within: str = "") -> None:
        self.record = record
        self.within = within
        self.problems: list[str] = []

    def text(self, name: str) -> str:
        """A required, non-empty text, stripped; the empty text (and a problem) when it is not there."""
        if self.record.get(name) is None:
            self.problems.append(f"field '{self.within}{name}' is missing")
            return ""
        value = first_text(self.record[name])
        if value is None:
            kind = type(self.record[name]).__name__
            self.problems.append(f"field '{self.within}{name}' must be text, found {kind}")
            return ""
        if not value.strip():
            self.problems.append(f"field '{self.within}{name}' is empty")
        return value.strip()

    def maybe(self, name: str) -> str | None:
        """An optional text (or the first of a list of texts), stripped; None when absent or empty."""
        if self.record.get(name) in (None, "", []):
            return None
        value = first_text(self.record[name])
        if value is None:
            self.problems.append(f"field '{self.within}{name}' must be text, found {type(self.record[name]).__name__}")
        return (value or "").strip() or None

    def texts(self, name: str) -> tuple[str, ...]:
        """An optional text or list of texts, each right-stripped; empty when absent."""
        value = self.record.get(name)
        items = [value] if isinstance(value, str) else value or []
        if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
            self.problems.append(f"field '{self.within}{name}' must be a list of non-empty texts")
            return ()
        return tuple(item.rstrip() for item in items)

    def part(self, name: str) -> Fields:
        """The fields of a required object inside this record; its problems are this record's."""
        value = self.record.get(name)
        if not isinstance(value, Mapping):
            found = "missing" if value is None else f"no object but {type(value).__name__}"
            self.problems.append(f"field '{self.within}{name}' is {found}")
            value = {}
            inner = Fields(value, f"{self.within}{name}.")
            inner.problems = []  # one problem is enough for a part that is not there
            return inner
        inner = Fields(value, f"{self.within}{name}.")
        inner.problems = self.problems
        return inner

    def raise_problems(self) -> None:
        """End the reading of this record.

        Raises:
            DataError: Some field was not as it should be.
        """
        if self.problems:
            raise DataError(self.problems)


def first_text(value: Any) -> str | None:
    """A text, a number as text, or the first text of (nested) lists of alternatives; None otherwise."""
    while isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return str(value)


def probe_groups(groups: Any) -> tuple[Probe, ...]:
    """Probes of KnowEdit's form: name of a group -> list of {prompt, ground_truth}; others are left out.

    The groups take turns, so that a limit keeps some of each.
    """
    lists = [items for items in groups.values() if isinstance(items, list)] if isinstance(groups, Mapping) else []
    probes = []
    for index in range(max(map(len, lists), default=0)):
        for items in lists:
            if index < len(items) and isinstance(items[index], Mapping):
                prompt, answer = first_text(items[index].get("prompt")), first_text(items[index].get("ground_truth"))
                if prompt and prompt.strip() and answer and answer.strip():
                    probes.append(Probe(prompt.rstrip(), answer.strip()))
    return tuple(probes)


def one_hop(portability: Any) -> tuple[Probe, ...]:
    """The probe of EasyEdit's form of portability: {"New Question", "New Answer"}."""
    if not isinstance(portability, Mapping):
        return ()
    question, answer = first_text(portability.get("New Question")), first_text(portability.get("New Answer"))
    return (Probe(question.rstrip(), answer.strip()),) if question and answer and answer.strip() else ()
