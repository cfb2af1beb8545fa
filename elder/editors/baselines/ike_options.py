"""Options of in-context editing. Imports no torch."""

from __future__ import annotations

from pydantic import field_validator

from elder.editors.baselines.retrieval_options import RetrievalOptions
from elder.options.fields import Count, setting


class IkeOptions(RetrievalOptions):
    """In-context editing: the nearest edits are told to the model before a prompt that is about them."""

    neighbours: Count = setting(1, "edits that are told, at most; the nearest comes last")
    template: str = setting("New Fact: {fact}\n", "text of one edit; {fact} is its prompt with its answer")
    closing: str = setting("Prompt: ", "text between the last of them and the prompt")

    @field_validator("template")
    @classmethod
    def _has_a_place(cls, template: str) -> str:
        if "{fact}" not in template:
            raise ValueError(f"must have a place for the edit, {{fact}}, found {template!r}")
        return template
