"""A page made of headings, texts, tables and pictures, written as Markdown or as one self-contained HTML file.

Knows nothing of what the page is about.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STYLE = """\
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin-top: 2.2rem; border-bottom: 1px solid #ddd }
table { border-collapse: collapse; margin: .8rem 0; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .7rem; border-bottom: 1px solid #eee; text-align: left; vertical-align: top }
th { border-bottom: 2px solid #bbb } td.number, th.number { text-align: right; white-space: nowrap }
td { overflow-wrap: anywhere } pre { background: #f6f6f6; padding: .8rem; overflow-x: auto } img { max-width: 100% }
.wide { overflow-x: auto }
"""


@dataclass(frozen=True)
class Heading:
    """A title; level 1 is the page's own."""

    text: str
    level: int = 2


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@dataclass(frozen=True)
class Code:
    """Text as it stands, such as a config."""

    text: str
    language: str = ""


@dataclass(frozen=True)
class Table:
    """Cells are text, or numbers and None, which are set to the right; None is shown as a dash."""

    columns: Sequence[str]
    rows: Sequence[Sequence[object]]


@dataclass(frozen=True)
class Picture:
    """A PNG with the file name that the Markdown page refers to and a text for those who cannot see it."""

    name: str
    png: bytes
    caption: str


Block = Heading | Text | Code | Table | Picture


def to_markdown(blocks: Sequence[Block], pictures: str = "plots") -> str:
    """The page as Markdown; pictures are referred to in the folder `pictures` beside it."""
    return "\n\n".join(_markdown(block, pictures) for block in blocks) + "\n"


def to_html(blocks: Sequence[Block], title: str) -> str:
    """The page as one HTML file: style and pictures inside, nothing fetched, everything escaped."""
    body = "\n".join(_html(block) for block in blocks)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title>\n<style>\n{STYLE}</style></head>\n<body>\n{body}\n</body></html>\n"
    )


def write_page(directory: Path, blocks: Sequence[Block], title: str) -> list[str]:
    """Write report.md, report.html and the pictures below plots/; returns the names of the files."""
    files = {"report.md": to_markdown(blocks).encode(), "report.html": to_html(blocks, title).encode()}
    files |= {f"plots/{block.name}": block.png for block in blocks if isinstance(block, Picture)}
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return list(files)


def number(value: object) -> str:
    """A cell as text: three decimals for fractions, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.3g}"
    return str(value)


def _markdown(block: Block, pictures: str) -> str:
    match block:
        case Heading(text, level):
            return f"{'#' * level} {_line(text)}"
        case Text(text):
            return _line(text)
        case Code(text, language):
            fence = "`" * max(3, _longest_run(text, "`") + 1)
            return f"{fence}{language}\n{text.rstrip()}\n{fence}"
        case Picture(name, _, caption):
            return f"![{_line(caption)}]({pictures}/{name})"
        case Table(columns, rows):
            right = _right(block)
            rule = ["---:" if flag else "---" for flag in right]
            lines = [list(columns), rule, *([number(cell) for cell in row] for row in rows)]
            return "\n".join(
                "| " + " | ".join(_line(cell).replace("|", "\\|") for cell in line) + " |" for line in lines
            )


def _html(block: Block) -> str:
    match block:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Text(text):
            return f"<p>{html.escape(text)}</p>"
        case Code(text, _):
            return f"<pre>{html.escape(text.rstrip())}</pre>"
        case Picture(_, png, caption):
            data = base64.b64encode(png).decode()
            return f'<p><img src="data:image/png;base64,{data}" alt="{html.escape(caption)}"></p>'
        case Table(columns, rows):
            marks = [' class="number"' if flag else "" for flag in _right(block)]
            head = "".join(f"<th{mark}>{html.escape(c)}</th>" for mark, c in zip(marks, columns, strict=True))
            lines = [
                "".join(f"<td{mark}>{html.escape(number(cell))}</td>" for mark, cell in zip(marks, row, strict=True))
                for row in rows
            ]
            inner = "\n".join(f"<tr>{line}</tr>" for line in lines)
            return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>\n{inner}\n</tbody></table></div>'


def _right(table: Table) -> list[bool]:
    """Which columns hold nothing but numbers and gaps, and at least one number."""
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    return [
        any(cell is not None for cell in column)
        and all(cell is None or isinstance(cell, int | float) for cell in column)
        for column in columns
    ]


def _line(text: str) -> str:
    return " ".join(text.split())


def _longest_run(text: str, sign: str) -> int:
    longest = run = 0
    for character in text:
        run = run + 1 if character == sign else 0
        longest = max(longest, run)
    return longest
