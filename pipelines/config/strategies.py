"""The ways in which papers put a set of facts into a model, as settings of a stream.

Pure; knows nothing of methods, and nothing of how a stream is run.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elder.pipelines.config.sections import StreamConfig

SINGLE, BATCH, SEQUENTIAL, BATCHED = "single", "batch", "sequential", "sequential-batched"
STRATEGIES = (BATCHED, SEQUENTIAL, BATCH, SINGLE)
MEANINGS: Mapping[str, str] = {
    SINGLE: "each edit alone on the unedited model, measured right after, then taken back",
    BATCH: "all edits in one batch, measured after it",
    SEQUENTIAL: "one edit after another on the same model, in batches of one",
    BATCHED: "batches one after another on the same model, as the config's `stream` says",
}


def stream_of(strategy: str, stream: Mapping[str, Any], edits: int | None) -> dict[str, Any]:
    """The section `stream` under a strategy.

    Args:
        strategy: One of `STRATEGIES`.
        stream: The section as the user wrote it.
        edits: `data.edits`; needed by `batch`.

    Raises:
        ValueError: `batch` without a number of edits.
    """
    found = dict(stream)
    if strategy == SEQUENTIAL:
        return {**found, "batch_size": 1}
    if strategy == SINGLE:
        return {**found, "batch_size": 1, "strategy": "isolated"}
    if strategy == BATCH:
        if not isinstance(edits, int) or isinstance(edits, bool) or edits < 1:
            raise ValueError("strategy 'batch' puts all edits into one batch: say how many (data.edits)")
        return {**found, "batch_size": edits, "stage_size": edits}
    return found


def moment(strategy: str, stream: StreamConfig) -> str:
    """When "right after" is, in words for a page."""
    if strategy == SINGLE:
        return "right after the edit, which is alone in the model"
    if strategy == BATCH:
        return "right after the batch, which holds all edits"
    if strategy == SEQUENTIAL:
        return f"right after the stage of {stream.stage_size} single edits that brought it"
    return f"right after the stage of {stream.stage_size} edits (batches of {stream.batch_size}) that brought it"
