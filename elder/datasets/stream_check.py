"""Checks a stream that is too long to be held: as `validate_stream`, edit by edit, with sixteen bytes for each.

What remains of an edit is a number made of its prompt and one of its id; the file is read again where a problem needs
the texts. Knows nothing of files.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

from elder.datasets.reader import EditReader, Placed
from elder.datasets.reading import Reading
from elder.datasets.records import SHOWN, Problems
from elder.datasets.stream import (
    EditStream,
    check_choices,
    first_problems,
    id_problems,
    in_words,
    length_problems,
    none_left,
    prompt_problems,
    text_problems,
)
from elder.edit import Edit, dataset_digest
from elder.errors import DataError

CHUNK = 500  # edits that are checked at once
UNFIT = "edits that cannot be made"
PARTS = 16  # of the marks, compared one after the other

Progress = Callable[[int], None]
Also = Callable[[EditStream], Mapping[int, str] | None]


@dataclass(frozen=True)
class CheckedStream:
    """A stream that was checked and not kept.

    Attributes:
        edits: How many there are.
        digest: That of `dataset_digest`.
        reading: What was read, and what was left out.
        skipped: The records that were left out because they cannot be edited: the place of each, and why.
    """

    edits: int
    digest: str
    reading: Reading
    skipped: tuple[str, ...] = ()


def check_stream(
    read: Callable[[], EditReader],
    conflicts: str = "refuse",
    tokenizer: Any = None,
    max_tokens: int | None = None,
    also: Also | None = None,
    progress: Progress | None = None,
    unusable: str = "refuse",
) -> CheckedStream:
    """Check a stream as a whole in constant memory.

    Args:
        read: Begins to read it, from its first edit; called once or twice.
        conflicts: As for `validate_stream`, and so the next two.
        tokenizer: Counts tokens.
        max_tokens: The longest context.
        also: Another check of some edits of the stream, with their places; raises DataError, or returns those that
            are to be left out, index -> why.
        progress: Called with the number of edits that were read.
        unusable: As for `validate_stream`; `read` knows it too.

    Raises:
        DataError: With all problems that `load_edits` and `validate_stream` would find, or else those of `also`.
            That there is no edit at all is left to the caller.
    """
    check_choices(conflicts, unusable)
    replaced: bytearray = bytearray()
    if conflicts == "last_wins":
        replaced = _replaced(read(), progress)
    checks = _Checks(read(), replaced, progress, tokenizer, max_tokens, also, unusable == "skip")
    digest = dataset_digest(checks.passing())
    checks.reader.finish()
    problems = Problems()
    prompts = _repeats(checks.prompts)
    _tell(problems, prompts, prompt_problems, read, replaced)
    known = set(prompts)
    _tell(problems, [pair for pair in _repeats(checks.ids) if pair not in known], id_problems, read, replaced)
    problems.add(*checks.texts.shown)
    problems.count += checks.texts.count - len(checks.texts.shown)
    problems.raise_any()
    checks.others.raise_any()
    if checks.skipped and not checks.count:
        raise none_left(len(checks.prompts), checks.skipped)
    return CheckedStream(checks.count, digest, checks.reader.reading, (*checks.reader.skipped, *checks.skipped))


class _Checks:
    """One way through a stream: every edit is checked, marked and handed on, except those that are left out."""

    def __init__(
        self,
        reader: EditReader,
        replaced: bytearray,
        progress: Progress | None,
        tokenizer: Any,
        max_tokens: int | None,
        also: Also | None,
        skip: bool,
    ) -> None:
        self.reader, self.count = reader, 0
        self._unusable, self._unfit, self._skip = list[str](), list[str](), skip
        self.prompts, self.ids = array("Q"), array("Q")
        self.texts, self.others = Problems(), Problems()
        self._replaced, self._progress, self._also = replaced, progress, also
        self._tokenizer, self._max_tokens = tokenizer, max_tokens

    def passing(self) -> Iterator[Edit]:
        """The edits of the stream."""
        standing = _standing(self.reader, self._replaced, self._progress)
        while placed := list(islice(standing, CHUNK)):
            chunk = EditStream([one.edit for one in placed], [one.where for one in placed])
            self.prompts.extend(_mark(edit.prompt) for edit in chunk)
            self.ids.extend(_mark(edit.id) for edit in chunk)
            left = self._fit(self._usable(chunk))
            self.count += len(left)
            yield from left

    @property
    def skipped(self) -> list[str]:
        """The edits that were left out, in the order in which a stream that is held lists them."""
        return [*self._unusable, *self._unfit]

    def _usable(self, chunk: EditStream) -> EditStream:
        """The edits whose texts can be used, or all of them where the others are refused."""
        problems = text_problems(chunk)
        if self._tokenizer is not None and self._max_tokens is not None:
            problems += length_problems(chunk, self._tokenizer, self._max_tokens)
        if not self._skip:
            self.texts.add(*in_words(chunk, problems))
            return chunk
        return self._leave_out(chunk, first_problems(problems), self._unusable)

    def _fit(self, chunk: EditStream) -> EditStream:
        """The edits that pass the other check, or all of them where it refuses some."""
        if self._also is None:
            return chunk
        try:
            return self._leave_out(chunk, self._also(chunk) or {}, self._unfit)
        except DataError as error:
            self.others.add(*error.problems)
            return chunk

    def _leave_out(self, chunk: EditStream, wrong: Mapping[int, str], listed: list[str]) -> EditStream:
        if not wrong:
            return chunk
        listed += in_words(chunk, sorted(wrong.items()))
        self.reader.reading.left_out[UNFIT] += len(wrong)
        return chunk.take(index for index in range(len(chunk)) if index not in wrong)


def _standing(reader: EditReader, replaced: bytearray, progress: Progress | None = None) -> Iterator[Placed]:
    """The edits that no later one replaces; the others are counted as left out."""
    left_out = reader.reading.left_out
    for index, placed in enumerate(reader):
        if progress is not None:
            progress(index + 1)
        if index < len(replaced) and replaced[index]:
            left_out["edits that a later one of the same prompt replaces (last_wins)"] += 1
            left_out["probes of these"] += len(placed.edit.all_probes)
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
