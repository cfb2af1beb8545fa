"""Hallucination in the layout of KnowEdit: the text so far, and the sentence that should follow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from elder.datasets.fields import Fields, LayoutOptions, probe_groups
from elder.edit import Edit

FIELDS = frozenset({"text", "labels", "concept"})


def build(record: Mapping[str, Any], options: LayoutOptions) -> Edit:
    """The edit of one passage; the target is the whole true sentence.

    Raises:
        DataError: Required fields are missing or of the wrong type.
    """
    fields = Fields(record)
    prompt, target, concept = fields.text("text"), fields.text("labels"), fields.text("concept")
    fields.raise_problems()
    return Edit(
        prompt=prompt,
        target=target,
        subject=concept,
        locality=probe_groups(record.get("locality"))[: options.locality_probes],
    )
