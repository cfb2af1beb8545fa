"""`elder.evaluate`: one measurement in one call. Knows nothing beyond the evaluator."""

from __future__ import annotations

from collections.abc import Sequence

from elder.base import Editor
from elder.edit import Edit
from elder.metrics.batching import MeasuringProgress
from elder.metrics.evaluator import Evaluator
from elder.metrics.questions import DEFAULT_PARTS, PROTOCOLS
from elder.metrics.report import EvaluationReport


def evaluate(
    edited: Editor,
    edits: Sequence[Edit],
    protocols: Sequence[str] = PROTOCOLS,
    parts: Sequence[str] = DEFAULT_PARTS,
    max_new_tokens: int = 16,
    batch_size: int = 64,
    progress: MeasuringProgress | None = None,
) -> EvaluationReport:
    """Measure an edited model on edits; see `Evaluator` for the arguments and errors.

    Whoever measures the same editor more than once keeps an `Evaluator`, which remembers the base's answers.
    """
    evaluator = Evaluator(edited, protocols, max_new_tokens=max_new_tokens, batch_size=batch_size)
    return evaluator.measure(edits, parts, progress)
