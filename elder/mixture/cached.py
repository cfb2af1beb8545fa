"""A record on a cache of keys and values that keeps the edit with the sequence.

A route belongs to a sequence, and a sequence that is being decoded is its cache. The record therefore lives on the
cache, follows everything that is done to its rows and columns (reordering for beams, selecting, repeating, cropping,
resetting, copying, pickling), and goes when the cache goes. Knows nothing of how rows are routed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache

from elder.mixture.route import ENDLESS, Plan, Routes, Span, plan_of

SLOT = "_elder_record"  # attribute of a cache that holds its record


class CacheRecord:
    """The routes of the B rows of a cache, and the tokens that they hold.

    Attributes:
        owner: Identity of the edits that made it; other edits do not read it.
        columns: Tokens that the cache holds of each row, padding included.
        routes: Of all B rows.
        starts: (B,) long, column of the first corrected token of each row; only of rows in scope.
        ends: (B,) long, column of the last prompt token at which the row was routed; -1: not routed yet.
        complete: No row is in the midst of its answer any more, see `elder.mixture.answer_bias`.
    """

    def __init__(self, owner: str, routes: Routes, device: torch.device) -> None:
        self.owner, self.columns, self.routes = owner, 0, routes
        self.starts = torch.zeros(len(routes), dtype=torch.long, device=device)
        self.ends = torch.full((len(routes),), -1, dtype=torch.long, device=device)
        self._pieces: list[_Piece] = []
        self._step: tuple[Plan | None, int] | None = None  # the plan of one more token of each row, and until when
        self._settled = self.complete = False

    def __len__(self) -> int:
        return len(self.routes)

    @property
    def settled(self) -> bool:
        """Whether every row has been routed."""
        if not self._settled:
            self._settled = bool((self.ends >= 0).all())
        return self._settled

    def route(self, routes: Routes, starts: Tensor, ends: Tensor) -> None:
        """Note the routes of all rows, (B,), and where they begin and were decided."""
        self.routes, self.starts, self.ends = routes, starts, ends
        self._changed()

    def extend(self, tokens: Tensor, real: Tensor | None, positions: Tensor | None, low: Tensor | None) -> None:
        """Note the tokens that the cache took up.

        Args:
            tokens: (B, T) ids, or (B, T, D) embeddings.
            real: (B, T) bool, or None when all are.
            positions: (B, T) position ids if the caller gave any.
            low: (B, T, D) states where subject keys are taken, if they are no function of the tokens.
        """
        self._pieces.append(_Piece(tokens, real, positions, low))
        self.columns += tokens.shape[1]

    @property
    def embedded(self) -> bool:
        """Whether its tokens are kept as embeddings, because some came as embeddings."""
        return bool(self._pieces) and self._pieces[-1].tokens.is_floating_point()

    def embed(self, embed: Callable[[Tensor], Tensor]) -> None:
        """Keep its tokens as embeddings from now on."""
        for piece in self._pieces:
            piece.tokens = embed(piece.tokens).detach()

    def step(self) -> Plan | None:
        """The plan of a pass over one more token of each row; worked out again only where a correction ends."""
        if self._step is None or self.columns >= self._step[1]:
            ends = [stop for stop in self.stops() if stop > self.columns]
            self._step = plan_of(self.routes, self.spans(1), len(self)), min(ends, default=ENDLESS)
        return self._step[0]

    def stops(self) -> list[int]:
        """The first column of each routed row that is not corrected any more."""
        found: list[int] = (self.ends + self.routes.length).tolist()
        return found

    def spans(self, length: int) -> list[Span]:
        """The places of `length` more tokens of each row, all of them after its prompt."""
        return [Span(r * length, length, 0, max(0, stop - self.columns)) for r, stop in enumerate(self.stops())]

    def content(self, begin: int) -> _Piece:
        """The content of the cache from a column on."""
        if len(self._pieces) > 1:
            self._pieces = [_joined(self._pieces)]
        return self._pieces[0].cut(begin, self.columns)

    def edited_from(self) -> int:
        """The first column that was corrected in any row; `columns` when none was."""
        inside = self.routes.inside
        first = int(self.starts[inside].min()) if bool(inside.any()) else self.columns
        return min(first, self.columns)

    # ---- changes of the cache -----------------------------------------------------------------------------------

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order."""
        rows = rows.to(self.starts.device)
        if rows.dtype == torch.bool:
            rows = rows.nonzero()[:, 0]
        self.routes = self.routes.at(rows)
        self.starts, self.ends = self.starts[rows], self.ends[rows]
        self._pieces = [piece.rows(rows) for piece in self._pieces]
        self._changed()

    def repeat(self, times: int) -> None:
        """Repeat every row `times` times in place."""
        self.select(torch.arange(len(self), device=self.starts.device).repeat_interleave(times))

    def crop(self, columns: int) -> None:
        """Keep the first columns; a row whose prompt ended after them is routed again."""
        if columns >= self.columns:
            return
        self._pieces = [self.content(0).cut(0, columns)] if columns else []
        self.columns = columns
        self.ends = torch.where(self.ends < columns, self.ends, -1)
        inside = self.routes.inside & (self.starts < columns)
        self.routes = replace(self.routes, inside=inside)
        self._changed()

    def _changed(self) -> None:
        self._step, self._settled, self.complete = None, False, False


class _Piece:
    """Some columns of all rows, see `CacheRecord.extend`."""

    def __init__(self, tokens: Tensor, real: Tensor | None, positions: Tensor | None, low: Tensor | None) -> None:
        self.tokens, self.real, self.positions, self.low = tokens, real, positions, low

    def mask(self) -> Tensor:
        """(B, T) bool, which tokens are real."""
        if self.real is not None:
            return self.real
        return torch.ones(self.tokens.shape[:2], dtype=torch.bool, device=self.tokens.device)

    def _each(self, change: Callable[[Tensor], Tensor]) -> _Piece:
        parts = (self.tokens, self.real, self.positions, self.low)
        return _Piece(*(None if part is None else change(part) for part in parts))  # type: ignore[arg-type]

    def rows(self, rows: Tensor) -> _Piece:
        return self._each(lambda part: part[rows])

    def cut(self, begin: int, end: int) -> _Piece:
        return self._each(lambda part: part[:, begin:end])


def _joined(pieces: Sequence[_Piece]) -> _Piece:
    """Pieces side by side. What only some of them have (positions, states) is lost; a mask is not."""
    every: dict[str, Tensor | None] = {}
    for name in ("positions", "low"):
        parts = [getattr(piece, name) for piece in pieces]
        every[name] = None if any(part is None for part in parts) else torch.cat(parts, dim=1)
    real = None if all(piece.real is None for piece in pieces) else torch.cat([p.mask() for p in pieces], dim=1)
    return _Piece(torch.cat([piece.tokens for piece in pieces], dim=1), real, **every)


def record_of(cache: Any, owner: str) -> CacheRecord | None:
    """The record of a cache, if these edits made it and it is as long as the cache."""
    record = getattr(cache, SLOT, None)
    return record if isinstance(record, CacheRecord) and record.owner == owner else None


def attach_record(cache: Cache, record: CacheRecord) -> None:
    """Give a cache its record, and let the record follow what is done to the cache."""
    kind: Any = type(cache)
    if not issubclass(kind, _Recorded):
        cache.__class__ = _recorded(kind)
    setattr(cache, SLOT, record)


class _Recorded:
    """Mixed into the class of a cache that has a record."""

    def reorder_cache(self, beam_idx: Tensor) -> None:
        super().reorder_cache(beam_idx)  # type: ignore[misc]
        self.__dict__[SLOT].select(beam_idx)

    def batch_select_indices(self, indices: Tensor) -> None:
        super().batch_select_indices(indices)  # type: ignore[misc]
        self.__dict__[SLOT].select(torch.as_tensor(indices))

    def batch_repeat_interleave(self, repeats: int) -> None:
        super().batch_repeat_interleave(repeats)  # type: ignore[misc]
        self.__dict__[SLOT].repeat(repeats)

    def crop(self, tokens_to_remove: int) -> None:
        super().crop(tokens_to_remove)  # type: ignore[misc]
        self.__dict__[SLOT].crop(int(self.get_seq_length()))  # type: ignore[attr-defined]

    def reset(self) -> None:
        super().reset()  # type: ignore[misc]
        self.__dict__[SLOT].crop(0)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _restored, (type(self).__mro__[2],), dict(self.__dict__)


@functools.cache
def _recorded(kind: Any) -> Any:
    """The class of caches of a kind that have a record; it has the kind's own name."""
    return type(kind.__name__, (_Recorded, kind), {"__module__": kind.__module__, "__qualname__": kind.__qualname__})


def _restored(kind: Any) -> Any:
    made = _recorded(kind)
    return made.__new__(made)
