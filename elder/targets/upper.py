"""Running the blocks above one layer again and again while the output of that layer changes at one token of each row.

What stands before that token cannot depend on the change: its keys and values are computed once and kept. What lies
below the layer is computed once too. Exact for causal decoders. Knows nothing of what the change is for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from elder.mixture.partial import PartialForward
from elder.targets.requests import Row


@dataclass
class Rows:
    """B rows, cut at the token that changes.

    Attributes:
        edit: (B,) number of each row's edit.
        hidden: (B, S, D) output of the layer from that token on, unchanged.
        inputs: What the model is called with: ids, mask and positions of the part behind the cut.
        cache: Keys and values of the part before it; None when no row has one.
        places: (B, K) indices into S whose distribution is looked at; padding repeats the first.
        labels: (B, K) tokens wanted there, -100 where there is none.
        kept: Keys and values of each layer as they were before the first run.
    """

    edit: Tensor
    hidden: Tensor
    inputs: dict[str, Tensor]
    cache: DynamicCache | None
    kept: list[tuple[Any, Any]]
    places: Tensor
    labels: Tensor


class UpperBlocks:
    """The part of a decoder above one block.

    Args:
        model: A clone whose blocks `partial` controls.
        partial: Lets a range of blocks run alone.
        layer: The block whose output changes.
        pad: Id that fills rows up.
        device: Where rows are wanted.
    """

    def __init__(
        self, model: PreTrainedModel, partial: PartialForward, layer: int, pad: int, device: torch.device
    ) -> None:
        self.model, self.partial, self.layer, self.pad, self.device = model, partial, layer, pad, device
        self._places: Tensor | None = None
        head: Any = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        head.register_forward_pre_hook(self._at_places)

    def prepare(self, rows: Sequence[Row]) -> Rows:
        """Run everything that no change can reach, once. Rows end with the last place that is looked at."""
        rows = [replace(row, ids=row.ids[: max(row.places) + 1]) for row in rows]
        head = max(row.at for row in rows)
        tail = max(len(row.ids) - row.at for row in rows)
        before = torch.full((len(rows), head), self.pad)
        behind = torch.full((len(rows), tail), self.pad)
        mask = torch.zeros(len(rows), head + tail, dtype=torch.long)
        for i, row in enumerate(rows):
            before[i, head - row.at :] = torch.tensor(row.ids[: row.at], dtype=torch.long)
            behind[i, : len(row.ids) - row.at] = torch.tensor(row.ids[row.at :])
            mask[i, head - row.at : head + len(row.ids) - row.at] = 1
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        before, behind, mask, positions = (t.to(self.device) for t in (before, behind, mask, positions))
        cache = self._remember(before, mask[:, :head], positions[:, :head]) if head else None
        if cache is None:  # other ranks' rows may have a head: under sharding all run equally many forwards
            self._remember(behind[:, :1], mask[:, :1], positions[:, :1])
        inputs = {"input_ids": behind, "attention_mask": mask, "position_ids": positions[:, head:]}
        kept = snapshot(cache)
        prepared = Rows(_tensor([r.edit for r in rows], self.device), behind, inputs, cache, kept, *self._wanted(rows))
        with torch.no_grad(), self.partial.only_below(self.layer + 1) as partial:
            self._run(prepared)
            prepared.hidden = partial.reached()
        return prepared

    def logits(self, rows: Rows, change: Tensor | None = None) -> Tensor:
        """Next-token logits at the wanted places when `change` (B, D) is added at the token of the cut.

        Returns:
            (B, K, V), with gradients to the change.
        """
        hidden = rows.hidden
        if change is not None:
            hidden = torch.cat([hidden[:, :1] + change[:, None].to(hidden.dtype), hidden[:, 1:]], dim=1)
        self._places = rows.places
        try:
            with self.partial.only_from(self.layer + 1, hidden):
                return self._run(rows)
        finally:
            self._places = None

    def _wanted(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        count = max(len(row.places) for row in rows)
        places = [
            [p - row.at for p in row.places] + [row.places[0] - row.at] * (count - len(row.places)) for row in rows
        ]
        labels = [[*row.labels] + [-100] * (count - len(row.labels)) for row in rows]
        return _tensor(places, self.device), _tensor(labels, self.device)

    def _remember(self, ids: Tensor, mask: Tensor, positions: Tensor) -> DynamicCache:
        """Keys and values of what stands before the cut. A row without any is all padding and is masked out later."""
        cache = DynamicCache(config=self.model.config)
        seen = mask.clone()
        seen[:, -1] = 1  # attention over nothing at all gives NaN; nobody looks at this column where it is padding
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
        """One pass over the part behind the cut; the cache is as before when it is over."""
        caching = {"past_key_values": rows.cache, "use_cache": True} if rows.cache is not None else {"use_cache": False}
        logits: Tensor = self.model(**rows.inputs, **caching).logits
        if rows.cache is not None:
            layers: Any = rows.cache.layers
            for layer, (keys, values) in zip(layers, rows.kept, strict=True):
                layer.keys, layer.values = keys, values
        return logits

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
        kept=snapshot(rows.cache),
        places=rows.places[index],
        labels=rows.labels[index],
    )


def _tensor(values: Sequence[Any], device: torch.device) -> Tensor:
    return torch.tensor(values, dtype=torch.long, device=device)
