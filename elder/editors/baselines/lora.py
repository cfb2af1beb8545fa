"""One LoRA (arXiv 2106.09685) beside a few maps, trained batch after batch and always active.

It is ELDER without mixture, router, guide and deferral. ELDER's tables have such a row without its settings; the
defaults here are those of ELDER: rank, learning rate, steps, batch size and blocks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from elder.editors.baselines.fine_tuning import FineTuningEditor, Values
from elder.editors.baselines.lora_options import LoraOptions


class LoraEditor(FineTuningEditor):
    """See the module's text. A (r, m) begins uniform in ±1/sqrt(m), B (d, r) with zeros."""

    method = "lora"
    options: LoraOptions

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """Six blocks at ELDER's relative depth, 21 to 26 of LLaMA2-7B's 32, fewer in small models."""
        count = min(6, max(1, depth // 2))
        first = min(round(depth * 21 / 32), depth - count)
        return tuple(range(first, first + count))

    def _fresh(self) -> Values:
        o, device = self.options, self.base.runtime.device
        generator, values = torch.Generator().manual_seed(o.seed), Values()
        for name, (m, d) in self.sizes.items():
            drawn = torch.rand(o.rank, m, generator=generator) * 2 - 1
            values[f"lora.{name}.a"] = (drawn / m**0.5).to(device)
            values[f"lora.{name}.b"] = torch.zeros(d, o.rank, device=device)
        return values

    def _dense(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        o = self.options
        scale = (o.rank if o.alpha is None else o.alpha) / o.rank
        return {name: scale * values[f"lora.{name}.b"] @ values[f"lora.{name}.a"] for name in self.sizes}
