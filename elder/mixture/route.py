"""Routes of rows of tokens, and the plan for the tokens of one pass that follows from them.

A row is one sequence of a batch. It is routed once, where its prompt ends, and keeps its route (`Routes`). A pass of
the model needs to know which of its tokens are corrected with which weights (`Plan`). Knows nothing of how routes are
chosen, of models or of caches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor

ENDLESS = 1 << 40  # tokens: the correction does not end


@dataclass(frozen=True)
class Routes:
    """The routes of R rows; the values of rows out of scope have no meaning.

    Attributes:
        inside: (R,) bool, whether the row is corrected at all.
        gates: (R, L, N) weight of each low-rank map; for MELO, with N = 1, the number of a block.
        group: (R,) long, the group of low-rank maps that serves the row.
        owner: (R,) long, number of the edit that was matched; -1 where a method knows no edit by number.
        score: (R, 2) how well it was matched; NaN where a method has no scores.
        length: (R,) long, how many tokens are corrected from the last prompt token on; default: `ENDLESS`.
        matched: (R,) long, number of the edit whose keys matched, for which the owner may answer; default: the owner.
    """

    inside: Tensor
    gates: Tensor
    group: Tensor
    owner: Tensor
    score: Tensor
    length: Tensor = None  # type: ignore[assignment]
    matched: Tensor = None  # type: ignore[assignment]

    def __post_init__(self) -> None:
        if self.length is None:
            object.__setattr__(self, "length", torch.full_like(self.owner, ENDLESS))
        if self.matched is None:
            object.__setattr__(self, "matched", self.owner)

    @classmethod
    def none(cls, rows: int, layers: int, experts: int, device: torch.device) -> Routes:
        """R rows out of scope."""
        long = torch.zeros(rows, dtype=torch.long, device=device)
        return cls(
            torch.zeros(rows, dtype=torch.bool, device=device),
            torch.zeros(rows, layers, experts, device=device),
            long,
            long - 1,
            torch.full((rows, 2), float("nan"), device=device),
        )

    def __len__(self) -> int:
        return len(self.inside)

    def at(self, rows: Tensor) -> Routes:
        """The routes of the given rows, (K,) long, in that order."""
        return Routes(**{f.name: getattr(self, f.name).index_select(0, rows) for f in fields(self)})

    def put(self, rows: Tensor, other: Routes) -> Routes:
        """These routes with those of `rows`, (K,) long, replaced by `other`, of length K."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return Routes(**{name: old.index_copy(0, rows, new.to(old.dtype)) for name, (old, new) in pairs.items()})

    @staticmethod
    def joined(parts: Sequence[Routes]) -> Routes:
        """The rows of all parts, in order."""
        return Routes(**{f.name: torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Routes)})


@dataclass(frozen=True)
class Plan:
    """Which tokens of a pass over (B, T) tokens are corrected, and how.

    Attributes:
        gates: L tensors, one for each edited layer. With `tokens`: (M, N), a row for each of these tokens. Without:
            whatever spreads over (B, T, N).
        tokens: (M,) indices of the corrected tokens among all B*T, or None when all are.
        parts: Which group of low-rank maps serves which of the corrected tokens, as pairs (group, indices among those
            tokens, or None for all of them).
        keep: (B, T) bool, tokens whose correction counts (training); None: all.
        scaled: The gates of a layer as factors of its maps' inner columns, by layer and format; a plan that serves many
            steps computes them once.
    """

    gates: Sequence[Tensor] | Tensor
    tokens: Tensor | None = None
    parts: tuple[tuple[int, Tensor | None], ...] = ((0, None),)
    keep: Tensor | None = None
    scaled: dict[tuple[int, torch.dtype], Tensor] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class Span:
    """The place of one row's tokens in a pass.

    Attributes:
        begin: Index of its first token among all B*T.
        length: How many it has.
        start: The first of them that is corrected if the row is in scope.
        stop: The first after that which is not.
    """

    begin: int
    length: int
    start: int
    stop: int = ENDLESS

    @property
    def count(self) -> int:
        """How many of its tokens are corrected if the row is in scope."""
        return max(0, min(self.length, self.stop) - self.start)


def plan_of(routes: Routes, spans: Sequence[Span], size: int) -> Plan | None:
    """The plan of a pass; None when no token is corrected.

    Args:
        routes: Of R rows.
        spans: Where the tokens of each are.
        size: Tokens of the pass, those of no row included.
    """
    flags = routes.inside.tolist()
    rows = [r for r, flag in enumerate(flags) if flag and spans[r].count]
    if not rows:
        return None
    device = routes.inside.device
    counts = [spans[r].count for r in rows]
    if max(counts) == 1:
        places = torch.tensor([spans[r].begin + spans[r].start for r in rows], device=device)
        owner = torch.tensor(rows, device=device)
    else:
        firsts = [spans[r].begin + spans[r].start for r in rows]
        places = torch.cat([torch.arange(a, a + n) for a, n in zip(firsts, counts, strict=True)]).to(device)
        owner = torch.tensor(rows).repeat_interleave(torch.tensor(counts)).to(device)
    gates = routes.gates.index_select(0, owner).transpose(0, 1)
    groups = routes.group.index_select(0, owner)
    return Plan(gates, None if len(places) == size else places, parts_of(groups))


def parts_of(groups: Tensor) -> tuple[tuple[int, Tensor | None], ...]:
    """Tokens by the group that serves them: (M,) group numbers -> pairs (group, indices of its tokens)."""
    present = groups.unique().tolist()  # type: ignore[no-untyped-call]
    if len(present) == 1:
        return ((present[0], None),)
    return tuple((g, (groups == g).nonzero()[:, 0]) for g in present)
