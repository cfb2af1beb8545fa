"""The drawn parts of `elder show`."""

from __future__ import annotations

import io
import math

from rich.console import Console

from elder.jobs.terminal.run_page import model_page, run_page, sparkline


def test_sparklines() -> None:
    assert sparkline([0.0, 0.5, 1.0]) == "▁▅█"
    assert sparkline([0.98, 0.99]) == "██"  # shares are drawn between 0 and 1, not to their own differences
    assert sparkline([10.0, None, 20.0, math.nan]) == "▁ █ "
    assert sparkline([5.0]) == "▁"
    assert sparkline([None]) == ""


def test_a_long_run_draws_its_last_row_only() -> None:
    console = Console(file=io.StringIO(), width=400)
    run_page(console, {"retention": [[1.0] * (i + 1) for i in range(30)]})
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert [line.split()[0] for line in lines if line.strip() and "retention" not in line] == ["29"]


def test_brackets_in_names_are_text() -> None:
    """What people write must not be taken for the console's own markup."""
    console = Console(file=io.StringIO(), width=200)
    move = {
        "action": "promote",
        "alias": "a",
        "from": None,
        "to": 1,
        "who": "[red]me[/red]",
        "when": "2026-01-01T00:00:00",
    }
    model_page(
        console,
        {
            "name": "m",
            "aliases": {"a": 1},
            "versions": [],
            "history": [{**move, "why": "[bold]", "forced": False, "failures": [], "done": False}],
        },
    )
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "[red]me[/red]" in text
    assert "[bold]" in text
    assert "begun, not completed" in text
