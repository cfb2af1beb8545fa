"""How the text after an edited answer compares with what the unedited model would have written there.

Pure functions on token ids and figures. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

EDITED, OWN, RATIO = "fluency.after_answer", "fluency.after_answer_base", "fluency.after_answer_ratio"


def answer_end(said: Sequence[int], target: Sequence[int], stopped: int | None) -> int | None:
    """Where the answer ends in a long continuation.

    Args:
        said: Ids of the continuation.
        target: Ids of the edit's target.
        stopped: How many ids a free answer would have had, its natural stop included; None: it would not have ended.

    Returns:
        The end of the target if the continuation begins with it, else `stopped`; None where no text comes after it.
    """
    end = len(target) if tuple(said[: len(target)]) == tuple(target) else stopped
    return end if end is not None and end < len(said) else None


def loss_ratio(means: Mapping[str, float]) -> dict[str, float]:
    """The ratio of the two mean losses; nothing where one is missing, or the base's is 0."""
    edited, own = means.get(EDITED), means.get(OWN)
    return {RATIO: edited / own} if edited is not None and own else {}
