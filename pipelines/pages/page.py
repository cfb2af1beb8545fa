"""Pages from templates: Markdown, and HTML in one self-contained file. Knows nothing of what a page is about.

A report computes a plain context; `templates/KIND.jinja` lays it out, within the frame `templates/page.jinja`. The
parts of a page (headings, tables, pictures) are macros, which exist for HTML and for Markdown.
"""

from __future__ import annotations

import base64
import csv
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jinja2 import Environment

TEMPLATES = Path(__file__).parent / "templates"
FORMS = {"report.md": "markdown", "report.html": "html"}

Table = tuple[Sequence[str], Sequence[Sequence[object]]]
"""Columns and rows. Columns of numbers and None are set to the right; None is shown as a dash."""


def render(kind: str, context: Mapping[str, Any], form: str) -> str:
    """A page as text.

    Args:
        kind: Name of the template.
        context: What the template asks for, beside `title`, `config` (YAML, may be empty) and `pictures` (file name ->
            PNG, or None where there is nothing to draw).
        form: `html` (style and pictures inside, nothing fetched, everything escaped) or `markdown` (pictures are
            referred to in the folder `plots` beside it).

    Raises:
        jinja2.UndefinedError: The template asks for what the context lacks.
    """
    return _environment(form).get_template(f"{kind}.jinja").render(context)


def write_page(directory: Path, kind: str, context: Mapping[str, Any]) -> list[str]:
    """Write report.md, report.html and the pictures below plots/; returns the names of the files."""
    files = {name: render(kind, context, form).encode() for name, form in FORMS.items()}
    files |= {f"plots/{name}": png for name, png in context["pictures"].items() if png is not None}
    for name, data in files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(data)
    return list(files)


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Write a table for other programs."""
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])


def number(value: object) -> str:
    """A cell as text: three decimals for fractions, a dash for nothing."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 1e4 else f"{value:.3g}"
    return str(value)


def _environment(form: str) -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader([TEMPLATES / form, TEMPLATES]),
        autoescape=form == "html",
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= FILTERS
    return made


def _numeric(rows: Sequence[Sequence[object]], count: int) -> list[bool]:
    """Which of `count` columns hold nothing but numbers and gaps, and at least one number."""
    columns = [[row[i] for row in rows if row[i] is not None] for i in range(count)]
    return [
        bool(cells) and all(isinstance(cell, int | float) and not isinstance(cell, bool) for cell in cells)
        for cells in columns
    ]


def _folded(text: object) -> str:
    return " ".join(str(text).split())


def _fence(text: str) -> str:
    """A fence that is longer than any within the text."""
    return "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))


FILTERS: Mapping[str, Callable[..., Any]] = {
    "base64": lambda png: base64.b64encode(png).decode(),
    "cell": lambda value: _folded(number(value)).replace("|", "\\|"),  # of a Markdown table
    "fence": _fence,
    "floats": lambda figures: [(name, float(value)) for name, value in figures.items()],
    "folded": _folded,
    "model_address": lambda model: f"models:/{model['name']}/{model['version']}" if model else None,
    "number": number,
    "numeric": _numeric,
    "tidy": lambda text: re.sub("\n{3,}", "\n\n", text.strip()) + "\n",
}
