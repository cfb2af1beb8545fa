"""Locality as agreement with the unedited model, on prompts that no edit is about.

Pure functions on what both models said. Knows nothing of how they were asked.
"""

from __future__ import annotations

from elder.metrics.generation import Continuation
from elder.metrics.scoring import TokenScores


def same_continuation(edited: Continuation, base: Continuation) -> bool:
    """Whether the edited model says the base's free answer, token for token, the stop included."""
    return edited.ids == base.ids


def same_predictions(edited: TokenScores, base: TokenScores) -> bool:
    """Whether the most likely token is unchanged at every place of the base's own free answer."""
    return edited.argmax == base.argmax
