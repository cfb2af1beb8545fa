"""The live display: the same events as plain lines, and as bars and a table on a terminal."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from elder.jobs.shared.running import resume_command
from elder.jobs.terminal.display import Display
from elder.jobs.terminal.summary import scores

EVENTS = [
    {"kind": "phase", "name": "load", "stage": 0},
    {"kind": "phase", "name": "edit", "stage": 0},
    {"kind": "batch", "stage": 0, "done": 1, "of": 4, "loss": 2.5},
    {"kind": "batch", "stage": 0, "done": 4, "of": 4, "loss": 0.5},
    {"kind": "phase", "name": "evaluate", "stage": 0},
    {"kind": "evaluated", "done": 3, "of": 9},
    {"kind": "note", "text": "worker 1 failed [once]"},
    {"kind": "something new", "x": 1},
    {
        "kind": "committed",
        "stage": 0,
        "edits": 4,
        "metrics": {"reliability.generate": 0.75, "reliability.forced": 1.0, "locality.generate": 0.5},
    },
]


def shown(terminal: bool) -> tuple[str, Display]:
    """What the display writes for the events above."""
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=140, color_system=None)
    with Display(console, ("generate", "forced")) as display:
        for event in EVENTS:
            display(event)
    return stream.getvalue(), display


def test_plain_lines_without_a_terminal() -> None:
    text, display = shown(terminal=False)
    assert "\x1b" not in text
    assert "stage 0: edit" in text
    assert "load the base model" in text
    assert "note: worker 1 failed [once]" in text
    assert "stage 0: committed, 4 edits, reliability (generate/forced) 0.750 / 1.000" in text
    assert "locality (generate/forced) 0.500 / -" in text
    assert [event["stage"] for event in display.committed] == [0]


def test_bars_and_one_table_row_a_stage_on_a_terminal() -> None:
    text, _ = shown(terminal=True)
    assert "4/4" in text
    assert "loss 0.500" in text
    assert "3/9" in text
    assert "0.750 / 1.000" in text
    assert "worker 1 failed [once]" in text


def test_an_error_inside_leaves_the_terminal_usable() -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=100)

    def broken(display: Display) -> None:
        with display:
            display(EVENTS[0])
            raise ValueError("x")

    with pytest.raises(ValueError, match="x"):
        broken(Display(console, ("generate",)))
    assert stream.getvalue().rstrip().endswith("\x1b[?25h"), "the cursor is shown again"


def test_resume_command_is_the_same_command_with_the_run_id() -> None:
    command = resume_command("edit", "my conf.yaml", ["seed=1", "run_id=old", "data.path=a b.jsonl"], "r9")
    assert command == "elder edit 'my conf.yaml' seed=1 'data.path=a b.jsonl' run_id=r9"


def test_scores_leave_out_what_was_not_measured() -> None:
    table = scores({"reliability.generate": 1.0, "perplexity": 3.0, "scope.edits": 0.5}, ("generate", "forced"))
    stream = io.StringIO()
    Console(file=stream, width=80).print(table)
    text = stream.getvalue()
    assert "portability" not in text
    assert "perplexity" in text
    assert "in scope: edits" in text
