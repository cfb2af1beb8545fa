"""What is left of earlier edits: the summary of a retention matrix.

Pure functions on numbers. Knows nothing of models, stages or stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean


def retention_summary(matrix: Sequence[Sequence[float]]) -> dict[str, float]:
    """Summarise a lower-triangular matrix R, where R[i][j] is the score after stage i on the edits of stage j.

    Args:
        matrix: Row i has at least i + 1 entries; entries behind the diagonal are ignored.

    Returns:
        `retention.immediate`: mean of R[j][j], each cohort measured as soon as it was applied.
        `retention.final`: mean of the last row, every cohort after the whole stream.
        `retention.average`: mean of R[i][j] over i > j, the score of earlier cohorts at every later stage.
        `retention.backward_transfer`: mean of R[last][j] - R[j][j] over all cohorts but the last; negative
            when later edits cost earlier ones.
        `retention.first_last_gap`: R[last][last] - R[last][0], how much better the newest cohort fares than
            the oldest.
        With one stage `average`, `backward_transfer` and `first_last_gap` have nothing to compare and are
        left out; an empty matrix gives an empty summary.

    Raises:
        ValueError: A row is too short.
    """
    for index, row in enumerate(matrix):
        if len(row) < index + 1:
            raise ValueError(f"row {index} of a retention matrix needs {index + 1} entries, found {len(row)}")
    if not matrix:
        return {}
    last = len(matrix) - 1
    diagonal = [float(matrix[j][j]) for j in range(last + 1)]
    final = [float(value) for value in matrix[last][: last + 1]]
    summary = {"retention.immediate": fmean(diagonal), "retention.final": fmean(final)}
    if last:
        summary["retention.average"] = fmean(float(matrix[i][j]) for i in range(1, last + 1) for j in range(i))
        summary["retention.backward_transfer"] = fmean(final[j] - diagonal[j] for j in range(last))
        summary["retention.first_last_gap"] = final[last] - final[0]
    return summary
