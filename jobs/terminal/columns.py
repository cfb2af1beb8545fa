"""Rows of plain text in columns, for output that is piped and cut. Imports no library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def aligned(rows: Sequence[Sequence[object]], left: int | None = None) -> Iterator[str]:
    """Lines in which the cells of a column begin, or end, below each other.

    Args:
        rows: Cells; all rows have the same number.
        left: How many columns are flush left; the others are flush right. Default: all of them.
    """
    widths = [max(len(str(cell)) for cell in column) for column in zip(*rows, strict=True)]
    flush = ["<" if left is None or number < left else ">" for number in range(len(widths))]
    for row in rows:
        cells = (f"{cell!s:{way}{width}}" for cell, way, width in zip(row, flush, widths, strict=True))
        yield "  ".join(cells).rstrip()
