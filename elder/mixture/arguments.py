"""What a pass is given and what it returns: tokens, masks, positions, caches. Knows nothing of routing."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from elder.mixture.prompt_end import PromptEnds


def tokens_of(kwargs: dict[str, Any]) -> Tensor:
    """(B, T) ids, or (B, T, D) embeddings.

    Raises:
        ValueError: There are neither.
    """
    tokens = kwargs.get("input_ids")
    tokens = kwargs.get("inputs_embeds") if tokens is None else tokens
    if tokens is None:
        raise ValueError("the edited model needs input_ids or inputs_embeds")
    return tokens  # type: ignore[no-any-return]


def real_of(mask: Any, given: PromptEnds | None, past: int, length: int) -> Tensor | None:
    """(B, T) bool of the new tokens, from a mask that counts cached tokens too; None: all are real."""
    if isinstance(mask, Tensor) and mask.dim() == 2:
        return mask[:, -length:].to(torch.bool, copy=True)  # the caller may write into it
    if mask is None or given is None or given.mask is None:
        return None
    known = given.mask[:, past : past + length].to(torch.bool, copy=True)  # what follows was generated
    return torch.nn.functional.pad(known, (0, length - known.shape[1]), value=True)


def positions_of(kwargs: dict[str, Any], length: int) -> Tensor | None:
    """Position ids of the new tokens, if the caller gives them."""
    positions = kwargs.get("position_ids")
    return positions if isinstance(positions, Tensor) and positions.shape[-1] == length else None


def cache_in(output: Any) -> Cache | None:
    """The cache that a model returns, if it returns one."""
    found = getattr(output, "past_key_values", None)
    if found is None and isinstance(output, tuple):
        found = next((part for part in output if isinstance(part, Cache)), None)
    return found if isinstance(found, Cache) else None
