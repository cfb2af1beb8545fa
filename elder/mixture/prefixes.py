"""Unrelated sentences that are put before a prompt, so that an edit does not hang on standing first in a text."""

from __future__ import annotations

import random

SENTENCES = (
    "The weather changed quickly that afternoon.",
    "He opened the letter and read it twice.",
    "They met again after many years.",
    "In the report, several points were discussed.",
    "A small boat crossed the river at dawn.",
    "She had always liked quiet places.",
    "Most of the visitors left before noon.",
    "The second volume appeared much later.",
    "Nothing more was said about the matter.",
    "The committee agreed on a new plan.",
    "An old clock stood in the corner of the room.",
    "Prices rose again in the following spring.",
    "The two brothers never spoke of it.",
    "It was the longest winter in memory.",
    "Later that year the road was closed.",
    "Few people noticed the difference.",
)


def prefixed(count: int, seed: str) -> list[str]:
    """Contexts, with `{}` for the prompt after one of `count` different sentences, chosen by the seed."""
    chosen = random.Random(f"{seed}/prefix").sample(SENTENCES, min(count, len(SENTENCES)))
    return [f"{sentence} {{}}" for sentence in chosen]
