"""Running the blocks above one layer again and again while the output of that layer changes at one token of each row.

The tokens before it cannot depend on the change: their keys and values are computed once and kept, all of them,
whatever the window of a layer; the model's own masks say which of them count. Models whose layers remember something
else (convolutions, recurrences) are run on whole rows. The blocks below the layer run once too. Exact for causal
decoders. Knows nothing of what the change is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedModel

from elder.forward.partial import PartialForward
from elder.models.attention import whole_attention_of


@dataclass(frozen=True)
class ValueRow:
    """One text that is run while a value is optimised.

    Attributes:
        edit: Number of the edit in its batch.
        ids: Token ids.
        at: Index of the subject's last token, where the value is added.
        places: Indices whose next-token distribution is looked at.
        labels: The tokens wanted there; empty for the row that must not change.
    """

    edit: int
    ids: tuple[int, ...]
    at: int
    places: tuple[int, ...]
    labels: tuple[int, ...] = ()


@dataclass
class Rows:
    """B rows, cut at the token that changes, or not cut at all.

    Attributes:
        edit: (B,) number of each row's edit.
        hidden: (B, S, D) what the blocks that are run begin with, from the cut on, unchanged.
        inputs: What the model is called with: ids, mask and positions of the part after the cut.
        cache: Keys and values of the part before it; None when no row has one.
        at: (B,) index into S of the token that changes; 0 where rows are cut there.
        kept: Keys and values of each layer as they were before the first run.
        places: (B, K) indices into S whose distribution is looked at; padding repeats the first.
        labels: (B, K) tokens wanted there, -100 where there is none.
    """

    edit: Tensor
    hidden: Tensor
    inputs: dict[str, Tensor]
    cache: DynamicCache | None
    at: Tensor
    kept: list[tuple[Any, Any]]
    places: Tensor
    labels: Tensor


class UpperBlocks:
    """The part of a decoder above one block, or above the edited map of that block.

    Args:
        model: A clone whose blocks `partial` controls.
        partial: Lets a range of blocks run alone.
        layer: The block whose output changes.
        pad: Id that fills rows up.
        device: Where rows are wanted.
        map: The block's edited map, the last one of its MLP; needed for `inside`.

    Attributes:
        inside: Changes are added to the output of `map`, not to that of the block: for blocks that put a norm
            or the like between the map and the residual stream.

    Raises:
        ModelError: The model's blocks cannot be run apart.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        partial: PartialForward,
        layer: int,
        pad: int,
        device: torch.device,
        map: nn.Module | None = None,
    ) -> None:
        self.model, self.partial, self.layer, self.pad, self.device = model, partial, layer, pad, device
        self.inside = False
        self._remembers = whole_attention_of(model).remembers
        self._places: Tensor | None = None
        self._change: tuple[Tensor, Tensor] | None = None  # what is added to the map's output, and where
        if map is not None:
            map.register_forward_hook(self._at_map)
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        head.register_forward_pre_hook(self._at_places)

    @property
    def _first(self) -> int:
        """The first block that is run again."""
        return self.layer if self.inside else self.layer + 1

    def prepare(self, rows: Sequence[ValueRow]) -> Rows:
        """Run once what no change can reach. Rows end with the last place that is looked at."""
        rows = [replace(row, ids=row.ids[: max(row.places) + 1]) for row in rows]
        cuts = [row.at if self._remembers else 0 for row in rows]
        head = max(cuts)
        tail = max(len(row.ids) - cut for row, cut in zip(rows, cuts, strict=True))
        before = torch.full((len(rows), head), self.pad)
        after = torch.full((len(rows), tail), self.pad)
        mask = torch.zeros(len(rows), head + tail, dtype=torch.long)
        for i, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
            before[i, head - cut :] = torch.tensor(row.ids[:cut], dtype=torch.long)
            after[i, : len(row.ids) - cut] = torch.tensor(row.ids[cut:])
            mask[i, head - cut : head + len(row.ids) - cut] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        before, after, mask, positions = (t.to(self.device) for t in (before, after, mask, positions))
        cache = self._remember(before, mask[:, :head], positions[:, :head]) if head else None
        if cache is None and self._remembers:  # other ranks may have one: under sharding all run equally many forwards
            self._remember(after[:, :1], mask[:, :1], positions[:, :1])
        inputs = {"input_ids": after, "attention_mask": mask, "position_ids": positions[:, head:]}
        edit, at = ([row.edit for row in rows], [row.at - cut for row, cut in zip(rows, cuts, strict=True)])
        prepared = Rows(
            _tensor(edit, self.device),
            after,
            inputs,
            cache,
            _tensor(at, self.device),
            snapshot(cache),
            *self._wanted(rows, cuts),
        )
        with torch.no_grad(), self.partial.only_below(self._first) as partial:
            self._run(prepared)
            prepared.hidden = partial.reached()
        return prepared

    def logits(self, rows: Rows, change: Tensor | None = None) -> Tensor:
        """Next-token logits at the wanted places when `change` (B, D) is added at the token that changes.

        Returns:
            (B, K, V), with gradients to the change.
        """
        hidden = rows.hidden
        if change is not None and not self.inside:
            hidden = _added(hidden, rows.at, change)
        self._places = rows.places
        self._change = None if change is None or not self.inside else (rows.at, change)
        try:
            with self.partial.only_from(self._first, hidden):
                return self._run(rows)
        finally:
            self._places, self._change = None, None

    def _wanted(self, rows: Sequence[ValueRow], cuts: Sequence[int]) -> tuple[Tensor, Tensor]:
        count = max(len(row.places) for row in rows)
        places = [
            [p - cut for p in row.places] + [row.places[0] - cut] * (count - len(row.places))
            for row, cut in zip(rows, cuts, strict=True)
        ]
        labels = [[*row.labels] + [-100] * (count - len(row.labels)) for row in rows]
        return _tensor(places, self.device), _tensor(labels, self.device)

    def _remember(self, ids: Tensor, mask: Tensor, positions: Tensor) -> DynamicCache:
        """Keys and values of the tokens before the cut. A row without any is all padding and is masked out later."""
        cache = DynamicCache()  # without a config, every layer keeps everything
        seen = mask.clone()
        seen[:, -1] = 1  # attention over nothing gives NaN; where this column is padding, it is masked later
        with torch.no_grad():
            self.model(
                input_ids=ids,
                attention_mask=seen,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        return cache

    def _run(self, rows: Rows) -> Tensor:
        """One pass over the part after the cut; it leaves the cache as it was."""
        caching = {"past_key_values": rows.cache, "use_cache": True} if rows.cache is not None else {"use_cache": False}
        layers: Any = [] if rows.cache is None else rows.cache.layers
        try:
            return self.model(**rows.inputs, **caching).logits  # type: ignore[no-any-return]
        finally:
            for layer, (keys, values) in zip(layers, rows.kept, strict=True):
                layer.keys, layer.values = keys, values

    def _at_map(self, _: Any, __: Any, out: Tensor) -> Tensor | None:
        return None if self._change is None else _added(out, *self._change)

    def _at_places(self, _: Any, args: tuple[Tensor, ...]) -> tuple[Tensor, ...] | None:
        if self._places is None:
            return None
        index = self._places[..., None].expand(-1, -1, args[0].shape[-1])
        return (args[0].gather(1, index), *args[1:])


def snapshot(cache: Any) -> list[tuple[Any, Any]]:
    """Keys and values of every layer of a cache, not copied; empty without a cache."""
    return [] if cache is None else [(layer.keys, layer.values) for layer in cache.layers]


def select(rows: Rows, index: Tensor) -> Rows:
    """The rows of the given numbers; the others are gone."""
    if rows.cache is not None:
        rows.cache.batch_select_indices(index)
    inputs = {name: tensor[index] for name, tensor in rows.inputs.items()}
    return Rows(
        edit=rows.edit[index],
        hidden=rows.hidden[index],
        inputs=inputs,
        cache=rows.cache,
        at=rows.at[index],
        kept=snapshot(rows.cache),
        places=rows.places[index],
        labels=rows.labels[index],
    )


def _added(states: Tensor, at: Tensor, change: Tensor) -> Tensor:
    """(B, S, D) with (B, D) added at one token of each row."""
    rows = torch.arange(len(at), device=at.device)
    return states.index_put((rows, at), change.to(states.dtype), accumulate=True)


def _tensor(values: Sequence[Any], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=device)
