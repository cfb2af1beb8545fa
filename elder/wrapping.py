"""A model that is in memory already, as a base for editing."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from elder.base import Base
from elder.models.load import wrap_base

__all__ = ["wrap"]


def wrap(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, source: str | None = None) -> Base:
    """A base model from a model and a tokenizer in memory; the model is frozen and put into eval mode.

    Args:
        model: A transformers causal language model.
        tokenizer: Its tokenizer.
        source: How reports and adapters call the model; default: where it was loaded from, if it knows.

    Raises:
        ModelError: The model cannot be a base.
    """
    name = source or str(getattr(model.config, "name_or_path", "") or "") or f"{type(model).__name__} in memory"
    return wrap_base(model, tokenizer, name)
