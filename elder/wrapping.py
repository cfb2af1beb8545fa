"""A model that is in memory already, as a base for editing."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from elder.base import Base
from elder.models.load import wrap_base

__all__ = ["wrap"]


def wrap(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    source: str | None = None,
    *,
    chat: str = "auto",
    system: str | None = None,
) -> Base:
    """A base model from a model and a tokenizer in memory; the model is frozen and put into eval mode.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer.
        source: How reports and adapters call the model; default: where it was loaded from, if it knows.
        chat: `auto`: prompts go through the tokenizer's chat template if it has one; `on`: it must have one; `off`;
            `both`: as `on`, and edits are trained and measured as plain texts too.
        system: Text of a system message before each prompt, where there is a chat template.

    Raises:
        ModelError: The model cannot be a base, or has no chat template that could be used.
    """
    name = source or str(getattr(model.config, "name_or_path", "") or "") or f"{type(model).__name__} in memory"
    return wrap_base(model, tokenizer, name, chat=chat, system=system)
