"""The memory that a decoder's layers have of earlier tokens, read from its config.

Editors run parts of a model on keys and values that they computed once, and pack rows onto one line under a mask of
their own. Whether that is exact depends on the kinds of its layers. Knows nothing of editing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from elder.errors import ModelError


@dataclass(frozen=True)
class Attention:
    """The memory of a decoder's layers.

    Attributes:
        remembers: All that a token takes from those before it are their keys and values. A plain `DynamicCache` that
            keeps every one of them then continues any text; which of them count (a window, a chunk) the model's own
            masks say. Not so for convolutions, recurrences and indexed keys.
        reach: Tokens of the narrowest window or chunk; in texts no longer than this every token sees all before it.
            None: there is no window.
        shares: Some layers use keys and values of others.
    """

    remembers: bool
    reach: int | None
    shares: bool

    def packs(self, lengths: Sequence[int]) -> bool:
        """Whether rows of these lengths may share a line under a plain block-diagonal causal mask.

        One mask serves layers of all kinds only if no row is longer than the narrowest window.
        """
        return self.remembers and (self.reach is None or max(lengths) <= self.reach)


def attention_of(model: PreTrainedModel) -> Attention:
    """Read from the cache that transformers makes for a model, which has its own kind of layer for each kind."""
    layers: list[Any] = DynamicCache(config=model.config).layers  # type: ignore[no-untyped-call]
    windows = [int(layer.sliding_window) for layer in layers if isinstance(layer, DynamicSlidingWindowLayer)]
    plain = all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
    modes = getattr(model.config.get_text_config(decoder=True), "kv_sharing_modes", None) or ()
    return Attention(plain, min(windows, default=None), "reuse" in modes)


def whole_attention_of(model: PreTrainedModel) -> Attention:
    """The same, for callers that run some blocks without the others.

    Raises:
        ModelError: The model (like Mamba) has another kind of cache.
    """
    if "past_key_values" not in signature(model.forward).parameters:
        raise ModelError(
            f"{type(model).__name__} keeps no cache of keys and values, so that its blocks cannot be run apart, as "
            "this method does; ultraedit, mend and malmen can edit it"
        )
    return attention_of(model)
