"""What an edited model computes at the end of a text, seen from outside."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from elder.forward.upper import ValueRow
from elder.models.anatomy import anatomy


def seen_at_end(editor: Any, row: ValueRow, layer: int) -> tuple[Tensor, Tensor]:
    """At a row's last token: the output of the edited map of a block, and the hidden state behind the block, (D,)."""
    parts = anatomy(editor.model)
    found: list[Tensor] = []

    def keep(module: nn.Module, args: Any, out: Any) -> None:
        found.append((out if isinstance(out, Tensor) else out[0])[0, -1].clone())

    handles = [m.register_forward_hook(keep) for m in (parts.target(layer, "mlp_out"), parts.blocks[layer])]
    try:
        with torch.no_grad():
            editor.model(input_ids=torch.tensor([row.ids]), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    output, hidden = found
    return output, hidden
