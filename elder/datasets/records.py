"""Reads files of records: JSON lines or one JSON list, plain or gzipped. Every record knows its place.

A file is read piece by piece, so that its size does not matter. Knows nothing of edits.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from elder.datasets.json_list import Whole, list_items
from elder.errors import DataError
from elder.json_text import JsonError, parse_json
from elder.paths import check_plain, user_path

SHOWN = 20
"""How many problems a message lists; the rest is counted."""


@dataclass(frozen=True)
class Record:
    """One record and where it is, such as `edits.jsonl:17`."""

    value: Any
    where: str


@dataclass(frozen=True)
class Broken:
    """A line that cannot be read: `problem` names the place and says what is wrong."""

    problem: str


def read_records(path: Path, lines: bool = False) -> Iterator[Record | Broken]:
    """The records of a file, one by one: `.json` holds one list, everything else a record a line.

    Blank lines are passed over. A line that cannot be read comes as `Broken`, so that a caller can
    collect all problems. Numbers with a point come as `WrittenFloat`.

    Args:
        path: The file; `.gz` is unpacked.
        lines: A `.json` file may hold a record a line too, as those of hub datasets do.

    Raises:
        DataError: The file is not there, cannot be opened, or is no list of records at all.
    """
    check_file(path)
    whole = path.name.removesuffix(".gz").endswith(".json")
    try:
        with open_bytes(path) as handle:
            if whole and not (lines and _begins_with_object(handle)):
                yield from _list_records(path, handle)
            else:
                yield from _line_records(path, handle)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def check_file(path: Path) -> None:
    """Find out whether there is such a file.

    Raises:
        DataError: There is none.
    """
    check_plain(user_path(path, DataError), DataError)
    if not path.is_file():
        raise DataError(f"{path}: no such file")


def open_bytes(path: Path) -> IO[bytes]:
    """The bytes of a file, unpacked if its name ends in `.gz`."""
    if path.name.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _begins_with_object(handle: IO[bytes]) -> bool:
    head = handle.read(1024).removeprefix(b"\xef\xbb\xbf").lstrip()
    handle.seek(0)
    return head.startswith(b"{")


def _line_records(path: Path, lines: Iterable[bytes]) -> Iterator[Record | Broken]:
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():  # without the line's end, or a line that breaks off would be wrong in a next one
                yield Record(parse_json(text.rstrip(), written=True), where)
        except JsonError as error:
            if error.line is None:
                yield Broken(f"{where}: {error.reason}")
            else:
                yield Broken(
                    f"{where}: not valid JSON at column {error.column}: {error.reason}; expected one JSON object a line"
                )
        except UnicodeDecodeError as error:
            yield Broken(f"{where}: not UTF-8 text at byte {error.start + 1} of the line")


def _list_records(path: Path, handle: IO[bytes]) -> Iterator[Record]:
    index = 0
    try:
        for value in list_items(handle):
            if isinstance(value, Whole):
                raise DataError(f"{path}: expected a JSON list of records, found {type(value.value).__name__}")
            yield Record(value, f"{path}[{index}]")
            index += 1
    except JsonError as error:
        if error.line is None:
            place = f"{path}: " if error.reason.startswith("not UTF-8") else f"{path}[{index}]: "
            raise DataError(f"{place}{error.reason}") from error
        hint = "; a file with one JSON object a line should be named .jsonl" if "Extra data" in error.reason else ""
        raise DataError(
            f"{path}:{error.line}: not valid JSON at column {error.column}: {error.reason}{hint}"
        ) from error


class Problems:
    """What is wrong, counted; only what a message shows is held, so that a file of faults does not fill the memory."""

    def __init__(self) -> None:
        self.shown: list[str] = []
        self.count = 0

    def add(self, *problems: str) -> None:
        """Note problems."""
        self.count += len(problems)
        self.shown += problems[: max(SHOWN - len(self.shown), 0)]

    def raise_any(self) -> None:
        """End the reading.

        Raises:
            DataError: There are problems: the first ones, and a line that counts the rest.
        """
        if self.count:
            more = self.count - len(self.shown)
            raise DataError([*self.shown, f"... and {more} more problems"] if more else self.shown)


def capped(problems: list[str]) -> list[str]:
    """The first problems and a line that counts the rest."""
    if len(problems) <= SHOWN:
        return problems
    return [*problems[:SHOWN], f"... and {len(problems) - SHOWN} more problems"]
