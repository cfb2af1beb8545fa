"""Options that all methods share that look edits up by the words of a prompt. Imports no torch."""

from __future__ import annotations

from elder.options.fields import Count, Number, Settings, setting


class RetrievalOptions(Settings):
    """When a prompt is about an edit: it holds the edit's subject, and its other words overlap with a wording's."""

    overlap: Number = setting(
        0.5, "Dice coefficient of the words beside the subject from which on a prompt is about an edit", gt=0, le=1
    )
    rephrases: bool = setting(True, "store the training half of the rephrases as wordings too, not only the prompt")
    batch_size: Count = setting(100, "edits stored together")
    micro_batch: Count = setting(16, "rows in one forward pass that measures losses")
