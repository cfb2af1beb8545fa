"""Where a subject stands in a text: as whole words, however its accents, quotes and capitals are written.

Knows nothing of tokenizers.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from elder.joining import spaceless

Place = tuple[int, int]
"""Begin and end of a subject, as places in its text."""

ALIKE = str.maketrans(
    {"’": "'", "‘": "'", "ʼ": "'", "`": "'", "´": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"',
     "‐": "-", "‑": "-", "–": "-", "—": "-", "−": "-"}
)  # fmt: skip
"""Quotes and dashes that are taken for one another."""


def find_subject(text: str, subject: str | None, known: int | None = None) -> Place | None:
    """The place of a subject in a text; of several the last one, as ROME and MEMIT take it.

    It stands there as whole words: "Al" is not found in "Alabama". Scripts without spaces have no such bounds. Looked
    for as it is written; then with composed accents, straight quotes, plain dashes and single spaces on both sides;
    then without regard to capitals. The first that finds it counts.

    Args:
        text: Where to look.
        subject: What to look for; None or empty: it is nowhere.
        known: Where it begins, when the dataset says so; counts if the subject stands there.

    Returns:
        Begin and end in `text`, or None.
    """
    if not subject or not subject.strip():
        return None
    subject = subject.strip()
    if known is not None and text.startswith(subject, known):
        return known, known + len(subject)
    for fold in (_as_it_is, _alike, _without_case):
        found = [
            place for place in _occurrences(_folded(text, fold), _folded(subject, fold).text) if _whole(text, place)
        ]
        if found:
            return found[-1]
    return None


@dataclass(frozen=True)
class _Folded:
    """A text, and for each of its letters where the piece of the original begins and ends that it was made of."""

    text: str
    begins: tuple[int, ...]
    ends: tuple[int, ...]

    def parts(self, at: int) -> bool:
        """Whether two pieces meet before a letter."""
        return at in (0, len(self.begins)) or self.begins[at - 1] != self.begins[at]


def _as_it_is(piece: str) -> str:
    return piece


def _alike(piece: str) -> str:
    return " " if piece.isspace() else unicodedata.normalize("NFC", piece).translate(ALIKE)


def _without_case(piece: str) -> str:
    return _alike(piece).casefold()


def _folded(text: str, fold: Callable[[str], str]) -> _Folded:
    letters: list[str] = []
    begins: list[int] = []
    ends: list[int] = []
    for begin, end in _pieces(text):
        made = fold(text[begin:end])
        letters.append(made)
        begins += [begin] * len(made)
        ends += [end] * len(made)
    return _Folded("".join(letters), tuple(begins), tuple(ends))


def _pieces(text: str) -> Iterator[Place]:
    """A letter with the marks on it, a syllable of Korean letters, or a run of white space."""
    begin = 0
    while begin < len(text):
        end = begin + 1
        goes_on = str.isspace if text[begin].isspace() else _is_mark
        while end < len(text) and goes_on(text[end]):
            end += 1
        yield begin, end
        begin = end


def _is_mark(letter: str) -> bool:
    return unicodedata.category(letter).startswith("M") or "\u1160" <= letter <= "\u11ff"


def _occurrences(folded: _Folded, wanted: str) -> Iterator[Place]:
    at = folded.text.find(wanted) if wanted else -1
    while at >= 0:
        end = at + len(wanted)
        if folded.parts(at) and folded.parts(end):
            yield folded.begins[at], folded.ends[end - 1]
        at = folded.text.find(wanted, at + 1)


def _whole(text: str, place: Place) -> bool:
    """Whether no word goes on over either end of a place."""
    begin, end = place
    return not (_one_word(text[begin - 1 : begin], text[begin]) or _one_word(text[end - 1], text[end : end + 1]))


def _one_word(left: str, right: str) -> bool:
    """Whether two neighbouring signs belong to one word; one of them may be missing."""
    if not left or not right:
        return False
    if _is_mark(right):
        return True
    return _in_word(left) and _in_word(right) and not (spaceless(left) or spaceless(right))


def _in_word(letter: str) -> bool:
    return letter.isalnum() or letter == "_" or _is_mark(letter)
