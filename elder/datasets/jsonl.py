"""Our own layout: the fields of `Edit`, as docs/data.md describes them."""

from __future__ import annotations

import re

from elder.datasets.fields import Fields, LayoutOptions, no_text
from elder.edit import Edit
from elder.errors import DataError

FIELDS = (frozenset({"prompt", "target"}),)
NO_TEXT = re.compile(r"field '(\w+)' must be text, found \w+")


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one record. The options do not matter: what the user wrote is kept whole.

    Raises:
        DataError: A field is missing, empty, unknown or of the wrong type.
    """
    try:
        return [Edit.from_dict(fields.whole(), _NOWHERE)]
    except DataError as error:
        raise DataError([_with_hint(problem, fields) for problem in error.problems]) from error


def _with_hint(problem: str, fields: Fields) -> str:
    """A number or a boolean is no text; the message says how to write it."""
    found = NO_TEXT.search(problem)
    return problem if found is None else f"field '{found[1]}' {no_text(fields.record[found[1]])}"


_NOWHERE = ""
