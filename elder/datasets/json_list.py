"""Reads a JSON list item by item, so that a file of gigabytes needs the memory of its longest item.

Knows nothing of what the items are.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from elder.json_text import JsonError, parse_item, parse_json

CHUNK = 1 << 18  # bytes read at once, at first
NEAR = 32  # an error so near to the end may come from the cut: half a word, a number, an escape
CUT = ("", ".", "e", "E", "e+", "e-", "E+", "E-")  # what is behind a number that the end of the window cuts
SPACE = " \t\n\r"


@dataclass(frozen=True)
class Whole:
    """The value of a text that is no list."""

    value: Any


def list_items(handle: IO[bytes]) -> Iterator[Any]:
    """The items of the JSON list that a file holds, or its one value as `Whole`.

    Raises:
        JsonError: It is no JSON (with line and column in the file), no UTF-8, or holds something that is refused.
    """
    window = _Window(handle)
    if window.peek() != "[":
        yield Whole(parse_json(window.rest(), written=True))
        return
    window.at += 1
    sign = window.peek()
    while sign != "]":
        yield window.item()
        sign = window.peek()
        if sign == ",":
            window.at += 1
            if window.peek() == "]":
                raise window.error("Illegal trailing comma before end of array", window.at)
        elif sign != "]":
            raise window.error("Expecting ',' delimiter", window.at)
    window.at += 1
    if window.peek():
        raise window.error("Extra data", window.at)


class _Window:
    """The part of a text that is held: what is before `at` is done with."""

    def __init__(self, handle: IO[bytes]) -> None:
        self.text, self.at = "", 0
        self._handle, self._decoder = handle, codecs.getincrementaldecoder("utf-8-sig")()
        self._bytes = self._lines = self._columns = 0  # of the text that was dropped: bytes fed, lines, columns
        self._ended, self._chunk = False, CHUNK

    def peek(self) -> str:
        """The next sign that is no space; empty at the end."""
        while True:
            while self.at < len(self.text) and self.text[self.at] in SPACE:
                self.at += 1
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._more():
                return ""

    def item(self) -> Any:
        """The value that begins here; more is read until it is whole."""
        self._chunk = CHUNK
        while True:
            try:
                value, end = parse_item(self.text, self.at)
            except json.JSONDecodeError as error:
                cut = error.msg.startswith("Unterminated string") or error.pos >= len(self.text) - NEAR
                if cut and self._more():
                    continue
                raise self.error(error.msg, error.pos) from error
            if self.text[end : end + 3] in CUT and self._more():  # a number may go on
                continue
            self.at = end
            return value

    def rest(self) -> str:
        """The text from here to its end."""
        while self._more():
            pass
        return self.text[self.at :]

    def error(self, reason: str, position: int) -> JsonError:
        """What is wrong at a position of the window, with line and column in the file."""
        before = self.text[:position]
        column = position - before.rfind("\n") if "\n" in before else self._columns + position + 1
        return JsonError(reason, self._lines + before.count("\n") + 1, column)

    def _more(self) -> bool:
        """Drop what is done with and read on, twice as much every time that an item needs more."""
        if self._ended:
            return False
        done = self.text[: self.at]
        self._columns = len(done) - done.rfind("\n") - 1 if "\n" in done else self._columns + len(done)
        self._lines += done.count("\n")
        data = self._handle.read(self._chunk)
        self._chunk *= 2
        kept = len(self._decoder.getstate()[0])
        try:
            fresh = self._decoder.decode(data, final=not data)
        except UnicodeDecodeError as error:
            raise JsonError(f"not UTF-8 text at byte {self._bytes - kept + error.start + 1}") from error
        self._bytes += len(data)
        self.text, self.at, self._ended = self.text[self.at :] + fresh, 0, not data
        return True
