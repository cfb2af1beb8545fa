"""A few prompts, answered with the edits and without them, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from elder.edit import Edit

if TYPE_CHECKING:
    from elder.base import Editor


def before_and_after(editor: Editor, edits: Sequence[Edit], max_new_tokens: int) -> list[dict[str, Any]]:
    """Rows with prompt, target, before and after, by greedy free generation up to the natural stop.

    Args:
        editor: The edited model; the unedited one below it answers `before`.
        edits: Whose prompts are asked.
        max_new_tokens: Longest answer, in tokens, unless a target is longer.
    """
    from elder.metrics.prober import Prober

    prober = Prober(editor, max_new_tokens, batch_size=32)
    asks = [prober.ask(edit.prompt, edit.target) for edit in edits]
    after = prober.answers(asks)
    with editor.disabled():
        before = prober.answers(asks)
    return [
        {
            "prompt": edit.prompt,
            "target": edit.target,
            "before": before[ask].text,
            "after": after[ask].text,
        }
        for edit, ask in zip(edits, asks, strict=True)
    ]
