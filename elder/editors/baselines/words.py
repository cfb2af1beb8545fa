"""The words of a text, and how many of them two texts share. Knows nothing of edits or tokenizers."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from elder.joining import spaceless

RUN = re.compile(r"[^\W_]+")


def words_of(text: str) -> frozenset[str]:
    """The different words of a text, without regard to capitals; every letter of scripts without spaces is one."""
    return frozenset(_words(unicodedata.normalize("NFC", text).casefold()))


def overlap(one: frozenset[str], other: frozenset[str]) -> float:
    """Dice coefficient of two sets of words: 1 for equal sets, two empty ones included; 0 for disjoint ones."""
    both = len(one) + len(other)
    return 2 * len(one & other) / both if both else 1.0


def _words(text: str) -> Iterator[str]:
    for run in RUN.findall(text):
        plain = ""
        for letter in run:
            if spaceless(letter):
                yield letter
            else:
                plain += letter
        if plain:
            yield plain
