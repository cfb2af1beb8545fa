"""General ability in the terminal: how far the questions have come, and the table of scores before and after."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

from elder.jobs.terminal.display import plain_table

COLUMNS = ("", "n", "before", "after", "difference", "lost", "gained", "p")


def ability_table(measured: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row for each figure: the scores before and after, and the difference on the same items."""
    table = plain_table("general ability, with 95 % intervals", *COLUMNS)
    for column in table.columns[1:]:
        column.justify = "right"
    for name, row in measured.items():
        change = row["difference"]
        cells = (_cell(row["before"]), _cell(row["after"]), _cell(change, "+"))
        counts = (str(change.get("lost", "-")), str(change.get("gained", "-")))
        table.add_row(name, str(row["n"]), *cells, *counts, f"{change['p']:.2f}" if "p" in change else "-")
    return table


@contextmanager
def counting(console: Console, what: str) -> Iterator[Callable[[int, int], None]]:
    """A callback for (done, of all): a line that changes on a terminal, a line for every tenth elsewhere."""
    if console.is_terminal:
        with console.status(what) as status:
            yield lambda done, of: status.update(f"{what}: {done}/{of}")
        return
    tenths = 0

    def tell(done: int, of: int) -> None:
        nonlocal tenths
        if done * 10 // of > tenths:
            tenths = done * 10 // of
            console.print(f"  {what}: {done} of {of}", highlight=False)

    yield tell


def _cell(figure: Mapping[str, float], sign: str = "") -> str:
    digits = 2 if abs(figure["high"]) > 1.5 else 3  # perplexities are read in hundredths, shares in thousandths
    value, low, high = (f"{figure[name]:{sign}.{digits}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"
