"""Reading the end of a cache once more: a pass that has to correct tokens which the cache holds uncorrected.

A prompt that comes in pieces, or continues after an answer, is routed at its new end. The corrections for the old end
are then wrong, and the tokens in question are put before the caller's new ones. Knows nothing of routing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Cache
from transformers.cache_utils import BaseQuantizedLayer

from elder.mixture.cached import CacheRecord
from elder.mixture.prompt_end import IGNORED


def rewound(kwargs: dict[str, Any], record: CacheRecord, begin: int, embed: nn.Module) -> tuple[dict[str, Any], int]:
    """Arguments of a pass that reads the cached tokens from column `begin` on again, and the new tokens after them.

    The cache is cut there, or emptied where it cannot be cut.

    Args:
        kwargs: The arguments of the pass as it was called.
        record: Of its cache.
        begin: The first column that is read again.
        embed: The token embeddings.

    Returns:
        The arguments, and the number of tokens that the cache still holds.
    """
    cache: Cache = kwargs["past_key_values"]
    past = record.columns
    begin = begin if can_be_cut(cache) else 0
    piece, whole = record.content(begin), record.content(0).mask()
    if begin:
        cache.crop(begin - past)
    else:
        cache.reset()  # type: ignore[no-untyped-call]
    changed = dict(kwargs)
    ids, embedded = kwargs.get("input_ids"), kwargs.get("inputs_embeds")
    if embedded is not None or piece.tokens.is_floating_point():
        new = embed(ids) if embedded is None else embedded
        old = piece.tokens if piece.tokens.is_floating_point() else embed(piece.tokens)
        changed["input_ids"], changed["inputs_embeds"] = None, torch.cat([old.to(new.dtype), new], dim=1)
    else:
        assert ids is not None
        changed["input_ids"] = torch.cat([piece.tokens, ids], dim=1)
    new_tokens: Tensor = ids if embedded is None else embedded  # type: ignore[assignment]
    length = new_tokens.shape[1]
    again = past - begin
    changed["attention_mask"] = _mask(kwargs.get("attention_mask"), whole, length)
    changed["position_ids"] = _positions(kwargs.get("position_ids"), piece.positions)
    labels = kwargs.get("labels")
    if isinstance(labels, Tensor):
        changed["labels"] = torch.nn.functional.pad(labels, (again, 0), value=IGNORED)
    keep = kwargs.get("logits_to_keep")
    if isinstance(keep, Tensor):
        changed["logits_to_keep"] = keep + again
    return {name: value for name, value in changed.items() if value is not None or name in kwargs}, begin


def trimmed(output: Any, again: int, length: int) -> Any:
    """An output without what belongs to the first `again` of `length` tokens, which the caller did not ask for."""
    logits = getattr(output, "logits", None)
    if logits is not None and logits.shape[1] == length:  # else the caller asked for the last ones only
        output.logits = logits[:, again:]
    states = getattr(output, "last_hidden_state", None)
    if states is not None:
        output.last_hidden_state = states[:, again:]
    hidden = getattr(output, "hidden_states", None)
    if hidden is not None:
        output.hidden_states = tuple(one[:, again:] for one in hidden)
    return output


def can_be_cut(cache: Cache) -> bool:
    """Whether the last tokens can be taken out of a cache; sliding layers have thrown away what would come back."""
    quantized = any(
        isinstance(layer, BaseQuantizedLayer) for layer in cache.layers
    )  # says that it is croppable, and fails
    return bool(cache.is_croppable) and not any(cache.is_sliding) and not quantized


def _mask(mask: Any, whole: Tensor, length: int) -> Tensor | None:
    """A mask over all columns: the caller's, if it is one, else what the cache remembers and all new tokens."""
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] == whole.shape[1] + length:
        return mask
    if mask is None and bool(whole.all()):
        return None
    return torch.cat([whole, torch.ones(len(whole), length, dtype=torch.bool, device=whole.device)], dim=1).long()


def _positions(new: Any, old: Tensor | None) -> Tensor | None:
    """Positions of all tokens that are read, where the caller gives them; the model counts them otherwise."""
    if not isinstance(new, Tensor):
        return None
    if old is None:
        return None
    return torch.cat([old, new], dim=-1)
