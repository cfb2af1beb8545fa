"""SCOTUS as GRACE uses it: an opinion of the court and the issue area it belongs to.

A language model answers with the name of the area, so the classes become words.
"""

from __future__ import annotations

from elder.datasets.fields import Fields, LayoutOptions
from elder.edit import Edit

FIELDS = (frozenset({"text", "label"}),)

QUESTION = "\nThe issue area of this opinion is"


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one opinion: its first `options.max_words` words and a question; the target is the label.

    A label that is a number becomes the name of `options.labels` at this place, or stays a number when
    no names are given.

    Raises:
        DataError: Required fields are missing, or a label has no name.
    """
    text, target = fields.text("text"), fields.text("label")
    if options.labels and target.removeprefix("-").isdecimal():  # a number, or the text of a table's cell
        number = int(target)
        if 0 <= number < len(options.labels):
            target = options.labels[number]
        else:
            fields.problems.append(f"field 'label' is {number}, but there are names for 0 to {len(options.labels) - 1}")
    source = str(fields.value("id")) if "id" in fields.record else None
    fields.raise_problems()
    words = text.split()[: options.max_words]
    return [Edit(prompt=" ".join(words) + QUESTION, target=target, source=source)]
