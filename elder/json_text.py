"""The one reader of JSON that comes from outside. It refuses what Python's own accepts, or ends in a raw exception.

Refused are: a key that is given twice, NaN and infinity, numbers beyond all floats, nesting without end, and halves of
characters (lone surrogates), which no file can hold. Knows nothing of what the values mean.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from elder.errors import ElderError, InputError
from elder.paths import check_plain
from elder.texts import HALF, is_writable

DEEPEST = 100  # objects and lists inside of each other; no format of ours has more than six
MOST_DIGITS = 300  # such a number is a float still
NESTED = "lists and objects are nested more than {} deep"


class JsonError(ValueError):
    """What is wrong with a JSON text.

    Attributes:
        reason: A sentence without the place.
        line: Where the text stops to be JSON, from 1; None where it is JSON, but none that is taken.
        column: As `line`.
    """

    def __init__(self, reason: str, line: int | None = None, column: int | None = None) -> None:
        super().__init__(reason if line is None else f"not valid JSON at line {line}, column {column}: {reason}")
        self.reason, self.line, self.column = reason, line, column


class WrittenFloat(float):
    """A number with a point or an exponent that remembers how it was written: `1.10` is not `1.1`."""

    __slots__ = ("written",)
    written: str

    def __new__(cls, text: str) -> WrittenFloat:
        """The number that a text of JSON is."""
        number = super().__new__(cls, _float(text))
        number.written = text
        return number


def parse_json(text: str | bytes, foreign: bool = False, written: bool = False) -> Any:
    """The value of a JSON text.

    Args:
        text: The text, or its bytes in UTF-8, with or without a byte order mark.
        foreign: The file belongs to another program, which may repeat keys and write NaN and Infinity.
        written: Floats come as `WrittenFloat`.

    Raises:
        JsonError: It is no JSON, or holds something that is refused (see above).
    """
    if isinstance(text, bytes):
        try:
            text = text.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise JsonError(f"not UTF-8 text at byte {error.start + 1}") from error
    try:
        value = (_FOREIGN if foreign else _WRITTEN if written else _STRICT).decode(text)
    except json.JSONDecodeError as error:
        raise JsonError(error.msg, error.lineno, error.colno) from error
    except RecursionError as error:
        raise JsonError(NESTED.format(DEEPEST)) from error
    if "\\u" in text or not text.isascii() or text.count("[") + text.count("{") > DEEPEST:
        check_nested(value)
    return value


def parse_item(text: str, begin: int) -> tuple[Any, int]:
    """The first JSON value of a text from a place on, and where it ends; floats come as `WrittenFloat`.

    Raises:
        json.JSONDecodeError: There is none, or the text ends before the value does.
        JsonError: It holds something that is refused.
    """
    try:
        value, end = _WRITTEN.raw_decode(text, begin)
    except RecursionError as error:
        raise JsonError(NESTED.format(DEEPEST)) from error
    check_nested(value)
    return value, end


def read_json(path: Path, refuse: type[ElderError] = InputError, foreign: bool = False) -> Any:
    """The value of a JSON file.

    Args:
        path: The file.
        refuse: The error to raise.
        foreign: As `parse_json`.

    Raises:
        ElderError: Of that class; it names the file and, if it can, the line.
    """
    check_plain(path, refuse)
    try:
        return parse_json(path.read_bytes(), foreign)
    except OSError as error:
        raise refuse(f"{path}: cannot be read: {error.strerror or error}") from error
    except JsonError as error:
        place = f"{path}:{error.line}" if error.line else str(path)
        reason = f"not valid JSON at column {error.column}: {error.reason}" if error.line else error.reason
        raise refuse(f"{place}: {reason}") from error


def read_object(path: Path, refuse: type[ElderError] = InputError, foreign: bool = False) -> dict[str, Any]:
    """The JSON object that a file holds.

    Raises:
        ElderError: As `read_json`, or the file holds something else.
    """
    value = read_json(path, refuse, foreign)
    if not isinstance(value, dict):
        raise refuse(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


def check_nested(value: Any, deepest: int = DEEPEST) -> None:
    """Refuse plain values that are nested too deeply, contain themselves, or hold texts that cannot be written.

    Raises:
        JsonError: They do.
    """
    level = [value]
    for _ in range(deepest + 1):
        level = list({id(inner): inner for item in level for inner in _inside(item)}.values())  # each once
        if not level:
            return
    raise JsonError(NESTED.format(deepest))


def _inside(item: Any) -> Iterator[Any]:
    if isinstance(item, dict):
        yield from item
        yield from item.values()
    elif isinstance(item, list | tuple):
        yield from item
    elif isinstance(item, str) and not is_writable(item):
        raise JsonError(f"it holds {HALF}")


def _object(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise JsonError(f"the key {twice!r} is given twice")
    return found


def _integer(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise JsonError(f"a number has {len(text)} digits, at most {MOST_DIGITS} are taken")
    return int(text)


def _float(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise JsonError(f"the number {text[:20]} is too large")
    return number


def _constant(name: str) -> NoReturn:
    raise JsonError(f"{name} is no JSON value; a number must be finite")


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer, parse_float=_float, parse_constant=_constant)
_FOREIGN = json.JSONDecoder(parse_int=_integer)
_WRITTEN = json.JSONDecoder(
    object_pairs_hook=_object, parse_int=_integer, parse_float=WrittenFloat, parse_constant=_constant
)
