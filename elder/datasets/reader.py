"""From records to edits, one by one, with a count.

Knows nothing of files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from elder.datasets.catalogue import LAYOUTS
from elder.datasets.fields import Fields, LayoutOptions
from elder.datasets.reading import Reading
from elder.datasets.records import Broken, Problems, Record, capped
from elder.datasets.stream import EditStream
from elder.edit import Edit
from elder.errors import DataError


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
        skipped: The same in place of `problems`, all of it, when such records are left out.
    """

    def __init__(
        self,
        records: Iterable[Record | Broken],
        layouts: Sequence[str],
        options: LayoutOptions,
        limit: int | None = None,
        skip: bool = False,
    ) -> None:
        self.reading, self.problems, self.skipped = Reading(), Problems(), list[str]()
        self._records, self._options, self._limit, self._skip = iter(records), options, limit, skip
        self._modules: dict[str, Any] = {name: import_module(LAYOUTS[name]) for name in layouts}

    @classmethod
    def held(cls, edits: EditStream) -> EditReader:
        """The edits of a stream that was read before; what was left out then is in the count."""
        records = (Record(edit, where) for edit, where in zip(edits, edits.places, strict=True))
        reader = cls(records, (), LayoutOptions())
        reader.skipped += edits.skipped
        if (past := edits.reading) is not None:
            reader.reading = Reading(0, 0, 0, 0, 0, past.without_edit, Counter(past.left_out), Counter(past.unread))
        return reader

    def __iter__(self) -> Iterator[Placed]:
        """The edits, at most as many as the limit; records with a problem count as one, unless they are left out.

        Raises:
            DataError: The file cannot be read on.
        """
        taken = 0
        while self._limit is None or taken < self._limit:
            record = next(self._records, None)
            if record is None:
                return
            if isinstance(record, Broken):
                self._wrong(record.problem)
                taken += not self._skip
                continue
            edits = self._edits(record)
            if edits is None:
                taken += not self._skip
                continue
            room = len(edits) if self._limit is None else self._limit - taken
            if len(edits) > room:
                self.reading.left_out["edits of the last record, beyond the limit"] += len(edits) - room
            for number, edit in enumerate(edits[:room], start=1):
                taken += 1
                self.reading.add(edit)
                yield Placed(edit, f"{record.where} rewrite {number}" if len(edits) > 1 else record.where)

    def finish(self) -> None:
        """To be called when all edits have come.

        Raises:
            DataError: Something is wrong with the records; if such are left out, with all that might be edits.
        """
        self.problems.raise_any()
        if self.skipped and not self.reading.edits:
            raise DataError(capped(self.skipped))

    def _wrong(self, *problems: str) -> None:
        if self._skip:
            self.skipped += problems
            self.reading.left_out["records that cannot be edited"] += 1
        else:
            self.problems.add(*problems)

    def _edits(self, record: Record) -> list[Edit] | None:
        """The edits of a record; None when there is something wrong with it, which is noted."""
        self.reading.records += 1
        if isinstance(record.value, Edit):  # of a generated world
            return [record.value]
        try:
            fields = Fields(_object(record.value))
            edits: list[Edit] = self._layout(fields.record).build(fields, self._options)
        except DataError as error:
            self._wrong(*(f"{record.where}: {problem.removeprefix(': ')}" for problem in error.problems))
            return None
        self.reading.left_out.update(fields.left_out)
        if edits:
            self.reading.unread.update(dict.fromkeys(fields.unread(), 1))
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
