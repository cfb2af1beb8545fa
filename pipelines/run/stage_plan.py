"""How a stream of edits is cut into stages."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StagePlan:
    """Stage `stage` takes the edits [first, end) in `batches` batches."""

    stage: int
    first: int
    end: int
    batches: int


def split(edits: int | None, stage_size: int, batch_size: int) -> tuple[StagePlan, ...]:
    """Stage k takes edits [k*S, (k+1)*S); the last one what is left."""
    if edits is None:
        return ()
    stages = []
    for number, first in enumerate(range(0, edits, stage_size)):
        end = min(first + stage_size, edits)
        stages.append(StagePlan(number, first, end, -(-(end - first) // batch_size)))
    return tuple(stages)
