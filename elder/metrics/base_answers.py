"""What an unedited model said while it was measured. Edits do not change it, so it is asked once."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass, field

from elder.metrics.generation import Continuation
from elder.metrics.scoring import Pair, TokenScores


@dataclass
class BaseAnswers:
    """The answers of one base model in one form of prompts, with one limit and one size of batches.

    Attributes:
        continuations: Prompt -> its free answer.
        scores: Teacher-forced scores.
        long: Ids of a prompt and its answer -> ids that follow, EOS suppressed.
    """

    continuations: dict[str, Continuation] = field(default_factory=dict)
    scores: dict[Pair, TokenScores] = field(default_factory=dict)
    long: dict[tuple[int, ...], tuple[int, ...]] = field(default_factory=dict)


SharedAnswers = MutableMapping[tuple[int, int, bool], BaseAnswers]
"""(most new tokens, size of batches, whether prompts are plain texts) -> what one base model said."""
