"""SCOTUS as GRACE uses it: an opinion of the court and the issue area it belongs to.

A language model answers with the name of the area, so the classes become words.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elder.datasets.fields import Fields, LayoutOptions
from elder.edit import Edit

FIELDS = frozenset({"text", "label"})

QUESTION = "\nThe issue area of this opinion is"


def build(record: Mapping[str, Any], options: LayoutOptions) -> Edit:
    """The edit of one opinion: its first `options.max_words` words and a question; the target is the label.

    A label that is a number becomes the name of `options.labels` at this place, or stays a number when
    no names are given.

    Raises:
        DataError: Required fields are missing, or a label has no name.
    """
    fields = Fields(record)
    text, target = fields.text("text"), fields.text("label")
    if options.labels and isinstance(record.get("label"), int):
        number = record["label"]
        if 0 <= number < len(options.labels):
            target = options.labels[number]
        else:
            fields.problems.append(f"field 'label' is {number}, but there are names for 0 to {len(options.labels) - 1}")
    fields.raise_problems()
    words = text.split()[: options.max_words]
    return Edit(prompt=" ".join(words) + QUESTION, target=target, source=str(record["id"]) if "id" in record else None)
