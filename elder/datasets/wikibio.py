"""Hallucination in the layout of KnowEdit: the text so far, and the sentence that should follow."""

from __future__ import annotations

from elder.datasets.fields import Fields, LayoutOptions
from elder.datasets.probes import kept, probe_groups
from elder.edit import Edit

FIELDS = (frozenset({"text", "labels", "concept"}),)


def build(fields: Fields, options: LayoutOptions) -> list[Edit]:
    """The edit of one passage; the target is the whole true sentence.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    prompt, target, concept = fields.text("text"), fields.text("labels"), fields.text("concept")
    locality = kept(fields, probe_groups(fields, "locality"), options)
    fields.raise_problems()
    return [Edit(prompt=prompt, target=target, subject=concept, locality=locality)]
