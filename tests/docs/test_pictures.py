"""The picture in the README is what a terminal shows at the end of a program, and what is drawn can be read."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).resolve().parents[2]
MAKE = runpy.run_path(str(ROOT / "docs" / "pictures" / "make.py"))
PROGRAM = """
from rich.console import Console
from rich.live import Live
from rich.text import Text
console = Console()
console.print("[bold]begin[/bold]")
with Live(Text("one\\ntwo"), console=console, auto_refresh=False) as live:
    for number in range(3):
        live.update(Text(f"bar {number}\\nrow {number}"), refresh=True)
        console.print(f"note {number}")
    live.update(Text("table"), refresh=True)
print("end")
"""


def plain(lines: list[str]) -> list[str]:
    return [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in lines]


def test_what_was_erased_is_not_on_the_screen(tmp_path: Path) -> None:
    said = MAKE["record"]([sys.executable, "-c", PROGRAM], tmp_path, {})
    assert "bar 1" in said
    lines = [line for line in plain(MAKE["screen"](said)) if line]
    assert lines == ["begin", "note 0", "note 1", "note 2", "table", "end"]
    assert "\x1b[1mbegin" in MAKE["screen"](said)[0]


def test_a_sequence_that_it_does_not_know_is_an_error() -> None:
    assert MAKE["screen"]("\x1b[?25lone\r\ntwo\rthree\x1b[?25h") == ["one", "three"]
    with pytest.raises(ValueError, match="does not know the control sequence ESC \\[2J"):
        MAKE["screen"]("one\x1b[2Jtwo")


def text_of(svg: str) -> list[str]:
    """The lines of a picture, the title first."""
    spans = [e for e in ElementTree.fromstring(svg).iter() if e.tag.endswith("}text")]
    lines: dict[str, str] = {}
    for span in spans:
        lines[span.get("y", "")] = lines.get(span.get("y", ""), "") + "".join(span.itertext()).replace("\xa0", " ")
    return [line.rstrip() for line in lines.values() if line.strip()]


def test_long_lines_are_folded_and_nothing_is_fetched() -> None:
    svg = MAKE["draw"](["\x1b[31mshort\x1b[0m", "x" * (MAKE["WIDTH"] + 5)], "a title")
    assert text_of(svg) == ["a title", "short", "x" * MAKE["WIDTH"], "x" * 5]
    assert "url(http" not in svg


def test_the_readme_shows_a_whole_run() -> None:
    assert "docs/pictures/demo.svg" in (ROOT / "README.md").read_text(encoding="utf-8")
    svg = MAKE["PICTURE"].read_text(encoding="utf-8")
    lines = text_of(svg)
    assert lines[0].startswith("elder demo")
    for words in ("base model", "reliability", "retention", "before and after", "pulled back from MLflow"):
        assert [line for line in lines if words in line], words
    assert "url(http" not in svg
    assert "/tmp/" not in svg
