"""What an answer is worth, from 0 to 1. Pure functions on texts."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from statistics import fmean

from elder.ability.item import Item
from elder.metrics.text import normalise

NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
WORD = re.compile(r"[a-z0-9]+")


def first_number(said: str, item: Item) -> float:
    """1 if the first number that was said is the wanted one; commas between digits and zeros after the point are free.

    The published code takes any answer that contains the digits (`15` counts for `5`), which is no measure of anything.
    """
    numbers = [float(one[0].replace(",", "")) for text in (said, *item.gold) if (one := NUMBER.search(text))]
    return float(len(numbers) == 1 + len(item.gold) and numbers[0] in numbers[1:])


def says_any(said: str, item: Item) -> float:
    """1 if some words in a row that were said are one of the answers, both normalised (`elder.metrics.text`)."""
    words = f" {normalise(said)} "
    return float(any(f" {normal} " in words for answer in item.gold if (normal := normalise(answer))))


def names_all(said: str, item: Item) -> float:
    """The share of the wanted entities that occur in what was said, as they are written."""
    return fmean(entity in said for entity in item.gold)


def rouge(said: str, item: Item) -> float:
    """The mean of ROUGE-1, ROUGE-2 and ROUGE-L, each as F1, on lower-case words of letters and digits, no stemming."""
    told, wanted = WORD.findall(said.lower()), WORD.findall(item.gold[0].lower())
    overlaps = [
        (_shared(told, wanted, 1), len(told), len(wanted)),
        (_shared(told, wanted, 2), len(told) - 1, len(wanted) - 1),
        (_longest(told, wanted), len(told), len(wanted)),
    ]
    return fmean(2 * shared / (one + other) if shared else 0.0 for shared, one, other in overlaps)


def _shared(told: Sequence[str], wanted: Sequence[str], size: int) -> int:
    """How many runs of `size` words two texts have in common, each as often as the rarer side has it."""

    def runs(words: Sequence[str]) -> Counter[tuple[str, ...]]:
        return Counter(tuple(words[i : i + size]) for i in range(len(words) - size + 1))

    return (runs(told) & runs(wanted)).total()


def _longest(told: Sequence[str], wanted: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(wanted) + 1)
    for word in told:
        above = row[:]
        for place, other in enumerate(wanted, start=1):
            row[place] = above[place - 1] + 1 if word == other else max(above[place], row[place - 1])
    return row[-1]
