"""States of a model at the end of subjects: keys, outputs of the edited maps, hidden states. One pass for all.

Knows nothing of values or updates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from elder.forward.partial import PartialForward
from elder.forward.upper import ValueRow
from elder.models.anatomy import check_rows
from elder.runtime import Runtime, merge_shares, rounds, share
from elder.tokens import pad_left

BENT = 0.05  # part of a response that may go another way than the push and be rounding (bfloat16)
FAR = 16.0  # the longer of two pushes, in units of the shorter
ONE = 0.01  # a share this near to 1 counts as 1


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
        self._push: tuple[int, Tensor] | None = None  # what is added to the output of a map, and of which block's
        for layer, module in maps.items():
            module.register_forward_hook(lambda _, args, out, layer=layer: self._take(layer, args[0], out))

    def look(self, rows: Sequence[ValueRow], last: int, batch: int = 64) -> Seen:
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

    def share_of(self, row: ValueRow, layer: int) -> float | None:
        """The share of its map's output that a block adds to the residual stream, measured. Collective.

        1 in most decoders, another number where a config scales it (Granite), None where something that is no scaling,
        such as a norm (Gemma 2 and 3, OLMo 2, GLM-4), comes in between.
        """
        before = self.look([row], layer).hidden
        push = before.flip(1)  # as long as the stream itself, so that rounding hides nothing
        moved = self._moved(row, layer, push, before)
        share = float((moved * push).sum() / push.square().sum())
        far = self._moved(row, layer, FAR * push, before)  # a norm lets nothing grow
        straight = (moved - share * push).norm() <= BENT * moved.norm()
        if not straight or not (far - FAR * moved).norm() <= BENT * far.norm():
            return None
        return 1.0 if abs(share - 1) < ONE else share

    def _moved(self, row: ValueRow, layer: int, push: Tensor, before: Tensor) -> Tensor:
        """(1, D) how far the block's output moves when `push` (1, D) is added to its map's."""
        self._push = layer, push
        try:
            return self.look([row], layer).hidden - before
        finally:
            self._push = None

    def _pass(self, rows: Sequence[ValueRow], last: int) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
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

    def _take(self, layer: int, x: Tensor, out: Tensor) -> Tensor | None:
        if self._keys is None:
            return None
        check_rows(x)
        # Copies, because Falcon adds attention to what its map returned, in place.
        self._keys[layer], self._outputs[layer] = (t[:, -1].to(torch.float32, copy=True) for t in (x, out))
        if self._push is None or self._push[0] != layer:
            return None
        return out + self._push[1].to(out.dtype)[:, None]
