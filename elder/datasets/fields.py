"""Reads the fields of one record of a foreign layout; remembers what is wrong with it and what nobody asked for.

Knows nothing of files or of particular datasets.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from elder.errors import DataError
from elder.json_text import WrittenFloat

TARGETS = ("alt", "answer")
INDEX = re.compile(r"\[\d+\]")


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
    """The fields of one record.

    Attributes:
        problems: Grows with every field that is not as it should be.
        left_out: Grows with every probe that is there and cannot be used, in words.
    """

    def __init__(self, record: Mapping[str, Any], within: str = "", outer: Fields | None = None) -> None:
        self.record = record
        self.within = within
        self.problems: list[str] = [] if outer is None else outer.problems
        self.left_out: list[str] = [] if outer is None else outer.left_out
        self._read: set[str] = set()
        self._parts: list[Fields] = []

    def value(self, name: str) -> Any:
        """A field as it is; None when absent."""
        self._read.add(name)
        return self.record.get(name)

    def whole(self) -> Mapping[str, Any]:
        """The record, to one who answers for each of its fields."""
        self._read.update(self.record)
        return self.record

    def text(self, name: str) -> str:
        """A required, non-empty text, stripped; the empty text (and a problem) when it is not there."""
        value = self.value(name)
        if value is None:
            self.problems.append(f"field '{self.within}{name}' is missing")
            return ""
        found = first_text(value)
        if found is None:
            self.problems.append(f"field '{self.within}{name}' {no_text(value)}")
            return ""
        if not found.strip():
            self.problems.append(f"field '{self.within}{name}' is empty")
        return found.strip()

    def maybe(self, name: str) -> str | None:
        """An optional text (or the first of a list of texts), stripped; None when absent or empty."""
        value = self.value(name)
        if value in (None, "", []):
            return None
        found = first_text(value)
        if found is None:
            self.problems.append(f"field '{self.within}{name}' {no_text(value)}")
        return (found or "").strip() or None

    def texts(self, name: str) -> tuple[str, ...]:
        """An optional text or list of texts, each right-stripped; empty when absent."""
        value = self.value(name)
        items = [value] if isinstance(value, str) else value or []
        if not isinstance(items, list) or not all(isinstance(item, str) and item.strip() for item in items):
            self.problems.append(f"field '{self.within}{name}' must be a list of non-empty texts")
            return ()
        return tuple(item.rstrip() for item in items)

    def first_texts(self, *names: str) -> tuple[str, ...]:
        """The texts of the first of several fields that has any."""
        return next((found for name in names if (found := self.texts(name))), ())

    def part(self, name: str) -> Fields:
        """The fields of a required object inside this record; its problems are this record's."""
        return self._inner(self.value(name), name)

    def parts(self, name: str) -> list[Fields]:
        """The fields of the objects of a required list inside this record."""
        value = self.value(name)
        if not isinstance(value, list) or not value:
            found = "is missing" if value in (None, []) else f"must be a list of objects, found {type(value).__name__}"
            self.problems.append(f"field '{self.within}{name}' {found}")
            return []
        return [self._inner(item, f"{name}[{index}]") for index, item in enumerate(value)]

    def _inner(self, value: Any, name: str) -> Fields:
        if not isinstance(value, Mapping):
            found = "missing" if value is None else f"no object but {type(value).__name__}"
            self.problems.append(f"field '{self.within}{name}' is {found}")
            return Fields({}, f"{self.within}{name}.")  # one problem is enough for a part that is not there
        inner = Fields(value, f"{self.within}{name}.", self)
        self._parts.append(inner)
        return inner

    def unread(self) -> Iterator[str]:
        """The names of fields that hold something and that nobody asked for; the items of a list share a name."""
        for name, value in self.record.items():
            if name not in self._read and value not in (None, "", [], {}):
                yield INDEX.sub("[]", f"{self.within}{name}")
        for part in self._parts:
            yield from part.unread()

    def raise_problems(self) -> None:
        """End the reading of this record.

        Raises:
            DataError: Some field was not as it should be.
        """
        if self.problems:
            raise DataError(self.problems)


def first_text(value: Any) -> str | None:
    """A text, a number as it is written, or the first text of (nested) lists of alternatives; None otherwise."""
    while isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    return value.written if isinstance(value, WrittenFloat) else str(value)


def no_text(value: Any) -> str:
    """What is wrong with a value that should be a text, and what to do."""
    if isinstance(value, bool):
        return f'must be text, found bool; write it in quotes: "{str(value).lower()}"'
    if isinstance(value, WrittenFloat | int | float):
        kind = "float" if isinstance(value, float) else "int"
        return f'must be text, found {kind}; write it in quotes: "{first_text(value)}"'
    if type(value).__name__ in ("date", "datetime", "time", "Decimal", "bytes"):
        return f"must be text, found {type(value).__name__}; write the column as text"
    return f"must be text, found {type(value).__name__}"
