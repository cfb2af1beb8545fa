"""A few prompts, answered with the edits and without them, for people to read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from elder.edit import Edit
from pipelines.config import RunConfig

if TYPE_CHECKING:
    from elder.editors.base import Editor

SMALL = 200_000_000  # parameters of a base model that is loaded again without a second thought


def base_answers(config: RunConfig, prompts: Sequence[str]) -> list[str | None]:
    """What the unedited model says, by greedy free generation; None for each prompt when the model is not small."""
    from pipelines.shapes import model_shape

    if model_shape(config.model.source, config.model.revision).parameters > SMALL:
        return [None] * len(prompts)
    import elder
    from elder.metrics.generation import Decoder, generate
    from elder.tokens import encode_prompt
    from jobs.wiring import home

    model = config.model
    base = elder.load_base(model.source, model.revision, model.dtype, "cpu", cache_dir=home())
    decoder = Decoder.to_stop(base.tokenizer, config.evaluation.max_new_tokens, batch_size=len(prompts))
    ids = [tuple(encode_prompt(base.tokenizer, prompt)) for prompt in prompts]
    return [said.text for said in generate(base.model, ids, decoder, base.runtime)]


def before_and_after(editor: Editor, edits: Sequence[Edit], max_new_tokens: int) -> list[dict[str, Any]]:
    """Rows with prompt, target, before and after, by greedy free generation up to the natural stop.

    Args:
        editor: The edited model; the unedited one behind it answers `before`.
        edits: Whose prompts are asked.
        max_new_tokens: Longest answer, in tokens, unless a target is longer.
    """
    from elder.metrics.prober import Prober

    prober = Prober(editor, max_new_tokens, batch_size=32)
    asks = [prober.ask(edit.prompt, edit.target) for edit in edits]
    before = prober.base_answers(edit.prompt for edit in edits)
    after = prober.answers(asks)
    return [
        {
            "prompt": edit.prompt,
            "target": edit.target,
            "before": before[edit.prompt].text,
            "after": after[ask].text,
        }
        for edit, ask in zip(edits, asks, strict=True)
    ]
