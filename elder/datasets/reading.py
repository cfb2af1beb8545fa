"""From records to edits, one by one, with a count of what was read and of what was left out.

Knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from elder.datasets.catalogue import LAYOUTS
from elder.datasets.fields import Fields, LayoutOptions
from elder.datasets.records import Broken, Problems, Record
from elder.datasets.stream import EditStream
from elder.edit import Edit
from elder.errors import DataError


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


@dataclass(frozen=True)
class Placed:
    """An edit and the place of its record, such as `edits.jsonl:17`."""

    edit: Edit
    where: str


class EditReader(Iterable[Placed]):
    """The edits of a source, one by one; to be gone through once.

    Attributes:
        reading: Counts while the edits come.
        problems: What is wrong; a record with a problem gives no edit, and those after it are read.
    """

    def __init__(
        self,
        records: Iterable[Record | Broken],
        layouts: Sequence[str],
        options: LayoutOptions,
        limit: int | None = None,
    ) -> None:
        self.reading, self.problems = Reading(), Problems()
        self._records, self._options, self._limit = iter(records), options, limit
        self._modules: dict[str, Any] = {name: import_module(LAYOUTS[name]) for name in layouts}

    @classmethod
    def held(cls, edits: EditStream) -> EditReader:
        """The edits of a stream that was read before; what was left out then is in the count."""
        records = (Record(edit, where) for edit, where in zip(edits, edits.places, strict=True))
        reader = cls(records, (), LayoutOptions())
        if (past := edits.reading) is not None:
            reader.reading = Reading(0, 0, 0, 0, 0, past.without_edit, Counter(past.left_out), Counter(past.unread))
        return reader

    def __iter__(self) -> Iterator[Placed]:
        """The edits, at most as many as the limit; records with a problem count as one.

        Raises:
            DataError: The file cannot be read on.
        """
        taken = 0
        while self._limit is None or taken < self._limit:
            record = next(self._records, None)
            if record is None:
                return
            if isinstance(record, Broken):
                self.problems.add(record.problem)
                taken += 1
                continue
            edits = self._edits(record)
            if edits is None:
                taken += 1
                continue
            room = len(edits) if self._limit is None else self._limit - taken
            if len(edits) > room:
                self.reading.left_out["edits of the last record, beyond the limit"] += len(edits) - room
            for number, edit in enumerate(edits[:room], start=1):
                taken += 1
                self.reading.add(edit)
                yield Placed(edit, f"{record.where} rewrite {number}" if len(edits) > 1 else record.where)

    def _edits(self, record: Record) -> list[Edit] | None:
        """The edits of a record; None when there is something wrong with it, which is noted."""
        self.reading.records += 1
        if isinstance(record.value, Edit):  # of a generated world
            return [record.value]
        try:
            fields = Fields(_object(record.value))
            edits: list[Edit] = self._layout(fields.record).build(fields, self._options)
        except DataError as error:
            self.problems.add(*(f"{record.where}: {problem.removeprefix(': ')}" for problem in error.problems))
            return None
        self.reading.left_out.update(fields.left_out)
        if edits:
            self.reading.unread.update(set(fields.unread()))
        else:
            self.reading.without_edit += 1
        return edits

    def _layout(self, record: Mapping[str, Any]) -> Any:
        """The module of the first layout whose fields a record has.

        Raises:
            DataError: It has those of none.
        """
        for module in self._modules.values():
            if any(record.keys() >= names for names in module.FIELDS):
                return module
        if len(self._modules) == 1:  # let the only layout say which field is missing
            return next(iter(self._modules.values()))
        expected = "; ".join(
            f"{name}: {' or '.join(', '.join(sorted(names)) for names in module.FIELDS)}"
            for name, module in self._modules.items()
        )
        raise DataError(
            f"the fields ({', '.join(sorted(map(str, record)))}) fit no known layout; expected at least ({expected})"
        )


def _object(value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise DataError(f"expected a JSON object, found {type(value).__name__}")
    return value
