"""What a model computes at the end of subjects: keys, outputs of the edited maps, hidden states. One pass for all.

Knows nothing of values or updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from elder.mixture.partial import PartialForward
from elder.runtime import Runtime, merge_shares, rounds, share
from elder.targets.requests import Row
from elder.tokens import pad_left


@dataclass(frozen=True)
class Seen:
    """At the last token of each of B rows, in float32.

    Attributes:
        keys: Block -> (B, m), input of its edited map.
        outputs: Block -> (B, d), output of its edited map.
        hidden: (B, d), output of the last block asked for.
    """

    keys: dict[int, Tensor]
    outputs: dict[int, Tensor]
    hidden: Tensor


class Observer:
    """Watches the edited maps of a clone while it is asked to.

    Args:
        model: A clone whose blocks `partial` controls.
        partial: Lets a range of blocks run alone.
        maps: Block -> its edited map.
        runtime: Where the model lives; rows are dealt to its ranks.
        pad: Id that fills rows up.
    """

    def __init__(
        self, model: PreTrainedModel, partial: PartialForward, maps: dict[int, nn.Module], runtime: Runtime, pad: int
    ) -> None:
        self.model, self.partial, self.maps, self.runtime, self.pad = model, partial, maps, runtime, pad
        self._keys: dict[int, Tensor] | None = None
        self._outputs: dict[int, Tensor] = {}
        for layer, module in maps.items():
            module.register_forward_hook(lambda _, args, out, layer=layer: self._take(layer, args[0], out))

    def look(self, rows: Sequence[Row], last: int, batch: int = 64) -> Seen:
        """Run rows that end where they are looked at, up to block `last`. Collective; the same on every rank.

        Args:
            rows: B rows; each ends with the token in question.
            last: The block at whose output the pass ends.
            batch: Rows in one forward.
        """
        mine = share(list(rows), self.runtime)
        real = len(mine)
        mine += [rows[0]] * (rounds(len(rows), self.runtime) - real)
        found: list[tuple[dict[int, Tensor], dict[int, Tensor], Tensor]] = []
        for begin in range(0, len(mine), batch):
            found.append(self._pass(mine[begin : begin + batch], last))
        layers = [layer for layer in self.maps if layer <= last]
        keys = {layer: self._merge([part[0][layer] for part in found], real) for layer in layers}
        outputs = {layer: self._merge([part[1][layer] for part in found], real) for layer in layers}
        return Seen(keys, outputs, self._merge([part[2] for part in found], real))

    def _pass(self, rows: Sequence[Row], last: int) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
        ids, mask, positions = pad_left([row.ids for row in rows], self.pad, self.runtime.device)
        self._keys, self._outputs = {}, {}
        try:
            with torch.no_grad(), self.partial.only_below(last + 1) as partial:
                self.model(
                    input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=1
                )
                hidden = partial.reached()[:, -1].float()
            return self._keys, self._outputs, hidden
        finally:
            self._keys = None

    def _merge(self, parts: Sequence[Tensor], real: int) -> Tensor:
        own = torch.cat(list(parts))[:real]
        if self.runtime.world_size == 1:
            return own
        shares = self.runtime.gather_objects(own.cpu())
        return torch.stack(merge_shares([list(part) for part in shares])).to(self.runtime.device)

    def _take(self, layer: int, x: Tensor, out: Any) -> None:
        if self._keys is not None:
            self._keys[layer], self._outputs[layer] = x[:, -1].float(), out[:, -1].float()
