"""One pass of an edited model, and what it answers with. Knows nothing of how rows are routed."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn

from elder.mixture.cached import CacheRecord
from elder.mixture.deferral import Deferral
from elder.mixture.paged import Line
from elder.mixture.route import Plan, Routes

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
        open: Nobody said where prompts end.
        past: Cached tokens of each row.
        again: So many of the new tokens were cached before and are read again.
        real: (B, T) bool, or None when all tokens are real.
        low: (B, T, D) states where subject keys are taken.
        routes, starts: Of all rows, when they are known.
        line: The requests of the pass, when it is one of continuous batching; they are its rows then.
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
