"""One pass of an edited model, and the version of the edits that it uses. Knows nothing of how rows are routed."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from elder.mixture.cached import CacheRecord
from elder.mixture.deferral import Deferral
from elder.mixture.prompt_end import PromptEnds
from elder.mixture.route import Plan, Routes, Span

T = TypeVar("T")

Groups = tuple[tuple[nn.Module, ...], ...]
"""The low-rank maps of each group, one for each edited layer."""


@dataclass(frozen=True)
class Version:
    """Everything that has been learnt up to some batch.

    Attributes:
        deferral: Which prompts are in scope, and with which weights.
        groups: The low-rank maps.
        ids: The id of every edit, by number; empty for methods that know no edit by number.
        count: How many edits have been applied.
        shape: Edited layers (L) and maps in each (N).
    """

    deferral: Deferral
    groups: Groups
    ids: tuple[str, ...]
    count: int
    shape: tuple[int, int]


@dataclass(frozen=True)
class Request:
    """The state of one request after a pass.

    Attributes:
        routes: Its route (R = 1); None while its prompt has not ended.
        low: (1, P, D) states of the prompt tokens so far, where subject keys are taken; only while it has not ended.
        end: Place of its last prompt token among all its tokens; -1 while it has not ended.
        ids: (1, P) those tokens; only while it has not ended.
        said: The tokens since then, as far as answers are long; only where these are pushed, see `AnswerBias`.
    """

    routes: Routes | None
    low: Tensor | None
    end: int = -1
    ids: Tensor | None = None
    said: tuple[int, ...] = ()


@dataclass(frozen=True)
class Line:
    """The requests of one pass.

    Attributes:
        spans: Places of the new tokens of each.
        past: Number of cached tokens of each.
        final: Whether the next token of each is asked for, so that its prompt ends here if it has not ended before.
        known: What was known of each before the pass; None for those that begin.
        slots: The slot of each one's last new token.
        cache: The paged cache.
    """

    spans: tuple[Span, ...]
    past: tuple[int, ...]
    final: tuple[bool, ...]
    known: tuple[Request | None, ...]
    slots: tuple[int, ...]
    cache: Any


@dataclass
class Pass:
    """One pass of the model in one thread.

    Attributes:
        version: What it answers with.
        kwargs: The arguments of the model.
        tokens: (B, T) ids or (B, T, D) embeddings.
        plan: Which tokens are corrected; None: none, or not decided yet.
        fixed: The plan was given from outside; nothing is decided or noted.
        record: Of the cache that the pass continues.
        due: Rows still have to be routed, at the tap.
        ends: (B,) column among the new tokens of each row's last prompt token; used for rows in `deciding`.
        deciding: The rows that are routed in this pass.
        open: The caller does not give the ends of prompts.
        past: Cached tokens of each row.
        again: Number of the new tokens that were cached before and are read again.
        real: (B, T) bool, or None when all tokens are real.
        low: (B, T, D) states where subject keys are taken.
        routes, starts: Of all rows, when they are known.
        line: The requests of the pass, when it is one of continuous batching; they are its rows then.
        asking: Rows (K,) and their routes, which count only if the base agrees (`elder.mixture.asking`).
        kept: What the caller gave as `logits_to_keep`, when the pass computes all of them.
    """

    version: Version
    kwargs: dict[str, Any] = field(default_factory=dict)
    tokens: Tensor | None = None
    plan: Plan | None = None
    fixed: bool = False
    record: CacheRecord | None = None
    due: bool = False
    ends: Tensor | None = None
    deciding: tuple[int, ...] = ()
    open: bool = False
    past: int = 0
    again: int = 0
    real: Tensor | None = None
    low: Tensor | None = None
    routes: Routes | None = None
    starts: Tensor | None = None
    line: Line | None = None
    asking: tuple[Tensor, Routes] | None = None
    kept: Any = None

    def prompt_ends(self, given: PromptEnds | None) -> Tensor:
        """(B,) column of each row's last prompt token, cached tokens included, if its prompt ends as the caller says.

        None: it ends with the last real token.
        """
        assert self.tokens is not None
        batch, length = self.tokens.shape[:2]
        device = self.tokens.device
        if given is not None:
            return given.columns.to(device)
        if self.real is None:
            return torch.full((batch,), self.past + length - 1, device=device)
        return self.past + (torch.arange(length, device=device) * self.real).amax(dim=1)

    def ended(self) -> Tensor:
        """(B,) column among the new tokens of each row's last prompt token, on the CPU; negative: a cached one.

        Of rows whose prompt has not ended there is nothing to know.
        """
        assert self.tokens is not None
        assert self.ends is not None or not self.deciding
        rows = torch.tensor(self.deciding, dtype=torch.long)
        ends = torch.zeros(len(self.tokens), dtype=torch.long)
        if self.record is not None:
            ends = self.record.ends.cpu() - self.past
        return ends if self.ends is None else ends.index_copy(0, rows, self.ends.cpu()[rows])


def moved(value: T, device: torch.device) -> T:
    """A copy of plain objects, containers, tensors and modules with all tensors on a device; number formats stay."""
    found: Any = value
    if isinstance(value, Tensor):
        found = value.to(device)
    elif isinstance(value, nn.Module):
        found = copy.deepcopy(value).to(device)
    elif isinstance(value, torch.device):
        found = device
    elif isinstance(value, (list, tuple)):
        found = type(value)(moved(item, device) for item in value)
    elif isinstance(value, dict):
        found = {key: moved(item, device) for key, item in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        found = replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    elif hasattr(value, "__dict__") and type(value).__module__.startswith("elder."):
        found = copy.copy(value)
        found.__dict__ = {name: moved(item, device) for name, item in vars(value).items()}
    return found  # type: ignore[no-any-return]
