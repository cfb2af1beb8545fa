"""Checks a stream that is too long to be held: as `validate_stream`, edit by edit, with sixteen bytes for each.

What remains of an edit is a number made of its prompt and one of its id; the file is read again where a problem needs
the texts. Knows nothing of files.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from elder.datasets.reader import EditReader, Placed
from elder.datasets.reading import Reading
from elder.datasets.records import SHOWN, Problems
from elder.datasets.stream import POLICIES, EditStream, id_problems, length_problems, prompt_problems
from elder.edit import Edit, dataset_digest
from elder.errors import DataError

CHUNK = 500  # edits that are checked at once
PARTS = 16  # of the marks, compared one after the other

Progress = Callable[[int], None]


@dataclass(frozen=True)
class CheckedStream:
    """A stream that was checked and not kept.

    Attributes:
        edits: How many there are.
        digest: That of `dataset_digest`.
        reading: What was read, and what was left out.
    """

    edits: int
    digest: str
    reading: Reading


def check_stream(
    read: Callable[[], EditReader],
    conflicts: str = "refuse",
    tokenizer: Any = None,
    max_tokens: int | None = None,
    also: Callable[[EditStream], Any] | None = None,
    progress: Progress | None = None,
) -> CheckedStream:
    """Check a stream as a whole in constant memory.

    Args:
        read: Begins to read it, from its first edit; called once or twice.
        conflicts: As for `validate_stream`, and so the next two.
        tokenizer: Counts tokens.
        max_tokens: The longest context.
        also: Another check of some edits of the stream, with their places; raises DataError.
        progress: Called with the number of edits that were read.

    Raises:
        DataError: With all problems that `load_edits` and `validate_stream` would find, or else those of `also`.
            That there is no edit at all is left to the caller.
    """
    if conflicts not in POLICIES:
        raise DataError(f"conflicts must be one of {', '.join(POLICIES)}, found '{conflicts}'")
    replaced: bytearray = bytearray()
    if conflicts == "last_wins":
        replaced = _replaced(read(), progress)
    checks = _Checks(read(), replaced, progress, tokenizer, max_tokens, also)
    digest = dataset_digest(checks.passing())
    checks.reader.problems.raise_any()
    problems = Problems()
    prompts = _repeats(checks.prompts)
    _tell(problems, prompts, prompt_problems, read, replaced)
    known = set(prompts)
    _tell(problems, [pair for pair in _repeats(checks.ids) if pair not in known], id_problems, read, replaced)
    problems.add(*checks.too_long.shown)
    problems.count += checks.too_long.count - len(checks.too_long.shown)
    problems.raise_any()
    checks.others.raise_any()
    return CheckedStream(checks.count, digest, checks.reader.reading)


class _Checks:
    """One way through a stream: every edit is checked, marked and handed on, except those that are replaced."""

    def __init__(
        self,
        reader: EditReader,
        replaced: bytearray,
        progress: Progress | None,
        tokenizer: Any,
        max_tokens: int | None,
        also: Callable[[EditStream], Any] | None,
    ) -> None:
        self.reader, self.count = reader, 0
        self.prompts, self.ids = array("Q"), array("Q")
        self.too_long, self.others = Problems(), Problems()
        self._replaced, self._progress, self._also = replaced, progress, also
        self._tokenizer, self._max_tokens = tokenizer, max_tokens

    def passing(self) -> Iterator[Edit]:
        """The edits of the stream."""
        standing = _standing(self.reader, self._replaced, self._progress)
        while placed := list(islice(standing, CHUNK)):
            chunk = EditStream([one.edit for one in placed], [one.where for one in placed])
            if self._tokenizer is not None and self._max_tokens is not None:
                self.too_long.add(*length_problems(chunk, self._tokenizer, self._max_tokens))
            if self._also is not None:
                try:
                    self._also(chunk)
                except DataError as error:
                    self.others.add(*error.problems)
            self.prompts.extend(_mark(edit.prompt) for edit in chunk)
            self.ids.extend(_mark(edit.id) for edit in chunk)
            self.count += len(chunk)
            yield from chunk


def _standing(reader: EditReader, replaced: bytearray, progress: Progress | None = None) -> Iterator[Placed]:
    """The edits that no later one replaces; the others are counted as left out."""
    left_out = reader.reading.left_out
    for index, placed in enumerate(reader):
        if progress is not None:
            progress(index + 1)
        if index < len(replaced) and replaced[index]:
            left_out["edits that a later one of the same prompt replaces (last_wins)"] += 1
            left_out["probes of these"] += len(placed.edit.locality) + len(placed.edit.portability)
        else:
            yield placed


def _replaced(reader: EditReader, progress: Progress | None) -> bytearray:
    """For every edit whether a later one has the same prompt."""
    prompts = array("Q", (_mark(placed.edit.prompt) for placed in _standing(reader, bytearray(), progress)))
    reader.problems.raise_any()
    found = bytearray(len(prompts))
    for earlier, _ in _repeats(prompts):
        found[earlier] = 1
    return found


def _mark(text: str) -> int:
    """64 bits of a text: among a million, two agree by chance once in forty million times."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _repeats(marks: array[int]) -> list[tuple[int, int]]:
    """(earlier, later) indices of neighbours with the same mark, in the order of the later ones."""
    found: list[tuple[int, int]] = []
    for part in range(PARTS):  # sorting all of them at once would take a hundred bytes an edit
        order = sorted((i for i, mark in enumerate(marks) if mark % PARTS == part), key=marks.__getitem__)
        found += (pair for pair in pairwise(order) if marks[pair[0]] == marks[pair[1]])
    return sorted(found, key=lambda pair: pair[1])


def _tell(
    problems: Problems,
    pairs: Collection[tuple[int, int]],
    words: Callable[[EditStream], list[str]],
    read: Callable[[], EditReader],
    replaced: bytearray,
) -> None:
    """Note a problem for each pair; the texts of those that are shown are read again."""
    if not pairs:
        return
    shown = {index for pair in list(pairs)[:SHOWN] for index in pair}
    placed = [one for index, one in enumerate(_standing(read(), replaced)) if index in shown]
    said = words(EditStream([one.edit for one in placed], [one.where for one in placed]))
    problems.add(*said)
    problems.count += len(pairs) - len(said)
