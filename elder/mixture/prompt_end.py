"""The end of each row's prompt, as the caller of a model gives it.

Columns are counted from the beginning of the sequence, cached tokens and padding included. Knows nothing of routing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

IGNORED = -100  # labels that no loss is computed for
NAMES = ("prompt_mask", "prompt_length")  # arguments of an edited model besides those of its base


class PromptEnds:
    """The last prompt token of each row.

    Args:
        columns: (B,) long; None: the last that is set in `mask`, worked out when it is asked for, since most passes of
            a decoding only ask whether it lies before them.
        furthest: No column is higher than this; known without asking the device.
        mask: (B, W) the real tokens of the prompt, if the caller gave them.
    """

    def __init__(self, columns: Tensor | None, furthest: int, mask: Tensor | None = None) -> None:
        self._columns, self.furthest, self.mask = columns, furthest, mask

    @cached_property
    def columns(self) -> Tensor:
        """(B,) long."""
        if self._columns is not None:
            return self._columns
        assert self.mask is not None
        return (torch.arange(self.mask.shape[1], device=self.mask.device) * self.mask.bool()).amax(dim=1)


def given_ends(kwargs: dict[str, Any], placed: Tensor | None, batch: int, past: int, length: int) -> PromptEnds | None:
    """The ends of the prompts of a pass as the caller gives them; None when none are given.

    In this order: `prompt_mask`, (B, W) ones for the real tokens of the prompt; `prompt_length`, the number of its real
    tokens, one number or one for each row; positions that were set around the call; `labels`, whose first wanted token
    comes right after the prompt. `prompt_mask` and `prompt_length` are taken out of `kwargs`.

    Args:
        kwargs: The arguments of the pass.
        placed: (B,) columns that were set around the call (`Editor.routed_at`).
        batch: Rows of the pass (B).
        past: Cached tokens of each row.
        length: New tokens of each row.

    Raises:
        ValueError: There are not as many numbers as rows.
    """
    mask, count = (kwargs.pop(name, None) for name in NAMES)
    if mask is not None:
        _check(len(mask), batch, "prompt_mask", "rows")
        return PromptEnds(None, mask.shape[1] - 1, mask)
    if count is not None:
        return _counted(count, kwargs.get("attention_mask"), batch, past + length)
    if placed is not None:
        _check(len(placed), batch, "routed_at()", "positions")
        return PromptEnds(placed, int(placed.max()))
    labels = kwargs.get("labels")
    if isinstance(labels, Tensor) and labels.dim() == 2 and labels.shape == (batch, length):
        return _labelled(labels, kwargs.get("attention_mask"), past)
    return None


def _counted(count: int | Sequence[int] | Tensor, mask: Any, batch: int, width: int) -> PromptEnds:
    counts = torch.as_tensor(count)
    counts = counts.expand(batch) if counts.dim() == 0 else counts
    _check(len(counts), batch, "prompt_length", "numbers")
    if isinstance(mask, Tensor) and mask.dim() == 2 and mask.shape[1] == width:
        columns = (mask.bool().cumsum(1) < counts.to(mask.device)[:, None]).sum(1)
    else:
        columns = counts - 1
    columns = columns.clamp(min=0)
    return PromptEnds(columns, int(columns.max()))


def _labelled(labels: Tensor, mask: Any, past: int) -> PromptEnds | None:
    """Labels that begin after the first real token of every row; those of a whole text do not show a prompt."""
    wanted = labels != IGNORED
    first = torch.where(wanted.any(1), wanted.int().argmax(1), labels.shape[1])
    if int(first.min()) < 1:
        return None
    if isinstance(mask, Tensor) and mask.dim() == 2:
        real = mask[:, -labels.shape[1] :].to(first.device).bool().gather(1, first[:, None] - 1)
        if bool((~real[:, 0] & wanted.any(1)).any()):
            return None
    columns = first + past - 1
    return PromptEnds(columns, int(columns.max()))


def _check(found: int, batch: int, name: str, what: str) -> None:
    if found != batch:
        raise ValueError(f"{name} was given {found} {what} for a batch of {batch} rows")
