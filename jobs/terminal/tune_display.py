"""The display of a search while it runs: a live table on a terminal, a line for each end of a trial elsewhere.

Driven by the events of `pipelines.search.driver` alone.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from elder.jobs.terminal.display import LiveDisplay

ENDED = ("finished", "pruned", "failed")
SHOWN = 12  # rows of the live table


class TuneDisplay(LiveDisplay):
    """Shows the events of one search.

    Args:
        console: Where to write; whether it is a terminal decides between a table and lines.
        mode: Whether a large or a small objective is good.
    """

    def __init__(self, console: Console, mode: str = "max") -> None:
        super().__init__(console)
        self._mode = mode
        self._rows: dict[str, dict[str, Any]] = {}
        self._best: dict[str, Any] | None = None
        self._ended_here = 0
        self.done, self._of, self._running = 0, 0, 0

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event; unknown kinds are passed over."""
        if event.get("kind") == "note":
            self._line(f"note: {event['text']}")
        elif event.get("kind") == "phase" and event.get("name") == "start":
            self._line("start the trials' workers")
        elif event.get("kind") == "trial":
            self._trial(event)
        if self._live is not None:
            self._live.update(self._drawing())

    def _trial(self, event: Mapping[str, Any]) -> None:
        row = self._rows.setdefault(event["name"], {"name": event["name"], "begun": time.monotonic()})
        row |= {key: value for key, value in event.items() if key not in ("kind", "done", "of", "running")}
        self.done, self._of, self._running = event["done"], event["of"], event["running"]
        if event["status"] not in ENDED:
            return
        self._ended_here += 1
        own = event["name"].startswith("t")
        if own and event["status"] == "finished" and self._beats(event["objective"]):
            self._best = dict(row)
        seconds = time.monotonic() - row["begun"]
        value = "" if event["objective"] is None else f" objective {event['objective']:.4f}"
        why = f": {event['error'].splitlines()[0]}" if event.get("error") else ""
        if self._live is None:
            self._line(f"{event['name']} {event['status']}{value} in {seconds:.1f} s ({parameters(row)}){why}")
            self._line(self.summary())

    def _beats(self, value: float) -> bool:
        if self._best is None:
            return True
        before: float = self._best["objective"]
        return value > before if self._mode == "max" else value < before

    def summary(self) -> str:
        """One line: how far it is, how long it will take, who leads."""
        counts = [row["status"] for row in self._rows.values() if row["name"].startswith("t")]
        parts = [f"{self.done} of {self._of} trials ended"]
        parts += [f"{counts.count(name)} {name}" for name in ("running", "pruned", "failed") if name in counts]
        left = self._of - self.done
        if self._ended_here and left > 0:
            parts.append(f"about {(time.monotonic() - self._begun) / self._ended_here * left:.0f} s to go")
        if self._best is not None:
            parts.append(f"best {self._best['objective']:.4f} by {self._best['name']} ({parameters(self._best)})")
        return ", ".join(parts)

    def _drawing(self, ended: bool = False) -> RenderableType:
        table = Table(box=None, header_style="bold", pad_edge=False)
        for name in ("trial", "status", "stage", "objective", "parameters"):
            table.add_column(name, overflow="fold")
        going = [row for row in self._rows.values() if row["status"] not in ENDED]
        over = [row for row in self._rows.values() if row["status"] in ENDED]
        for row in [*over[-max(1, SHOWN - len(going)) :], *going]:
            value = row.get("objective")
            stage = "" if row.get("stage") is None else str(row["stage"])
            figure = "" if value is None else f"{value:.4f}"
            table.add_row(row["name"], row["status"], stage, figure, Text(parameters(row)))
        return Group(table, Text(self.summary())) if self._rows else Group("waiting for the first trial")


def parameters(row: Mapping[str, Any]) -> str:
    """The parameters of a trial, short."""
    return ", ".join(f"{key.removeprefix('editor.')}={value}" for key, value in row["parameters"].items())
