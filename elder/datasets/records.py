"""Reads files of records: JSON lines or one JSON list, plain or gzipped. Every record knows its place.

Knows nothing of edits.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

from elder.errors import DataError
from elder.json_text import JsonError, parse_json
from elder.paths import user_path

SHOWN = 20
"""How many problems a message lists; the rest is counted."""


@dataclass(frozen=True)
class Record:
    """One JSON value and where it stands, such as `edits.jsonl:17`."""

    value: Any
    where: str


@dataclass(frozen=True)
class Broken:
    """A line that is no JSON: `problem` names the place and says what is wrong."""

    problem: str


def read_records(path: Path) -> Iterator[Record | Broken]:
    """The records of a file, one by one: `.json` holds one list, everything else a record a line.

    Blank lines are passed over. A line that cannot be read comes as `Broken`, so that a caller can
    collect all problems.

    Raises:
        DataError: The file is not there, cannot be opened, or is no list of records at all.
    """
    if not user_path(path, DataError).is_file():
        raise DataError(f"{path}: no such file" + (" (it is a directory)" if path.is_dir() else ""))
    whole = path.name.removesuffix(".gz").endswith(".json")
    try:
        with _open(path) as handle:
            yield from _list_records(path, handle) if whole else _line_records(path, handle)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _open(path: Path) -> IO[bytes]:
    if path.name.endswith(".gz"):
        return cast(IO[bytes], gzip.open(path, "rb"))
    return path.open("rb")


def _line_records(path: Path, lines: Iterable[bytes]) -> Iterator[Record | Broken]:
    for number, line in enumerate(lines, start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            if text.strip():
                yield Record(parse_json(text), where)
        except JsonError as error:
            place = f"not valid JSON at column {error.column}: " if error.column else ""
            yield Broken(f"{where}: {place}{error.reason}; expected one JSON object a line")
        except UnicodeDecodeError as error:
            yield Broken(f"{where}: not UTF-8 text at byte {error.start + 1} of the line")


def _list_records(path: Path, handle: IO[bytes]) -> Iterator[Record]:
    try:
        values = parse_json(handle.read().decode("utf-8-sig"))
    except JsonError as error:
        if error.line is None:
            raise DataError(f"{path}: {error.reason}") from error
        hint = "; a file with one JSON object a line should be named .jsonl" if "Extra data" in error.reason else ""
        raise DataError(
            f"{path}:{error.line}: not valid JSON at column {error.column}: {error.reason}{hint}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text at byte {error.start + 1}") from error
    if not isinstance(values, list):
        raise DataError(f"{path}: expected a JSON list of records, found {type(values).__name__}")
    for index, value in enumerate(values):
        yield Record(value, f"{path}[{index}]")


def capped(problems: list[str]) -> list[str]:
    """The first problems and a line that counts the rest."""
    if len(problems) <= SHOWN:
        return problems
    return [*problems[:SHOWN], f"... and {len(problems) - SHOWN} more problems"]
