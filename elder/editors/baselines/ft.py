"""Breadth-first fine-tuning: LocFT-BF, "Fine-tuning Done Right in Model Editing" (arXiv 2509.22072).

One map is trained by Adam over epochs of all edits, in a new order each time, on answers that end with the end token.
The paper sees all edits together; here, all edits of a batch, so `stream.batch_size` says how much of the stream that
is. Deviation: Adam starts afresh with every batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from elder.editors.baselines.fine_tuning import FineTuningEditor, Values


class FtEditor(FineTuningEditor):
    """See the module's text."""

    method = "ft"

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """Block 22 of Llama-3-8B's 32, at this relative depth; the paper tunes the block for each model."""
        return (min(round(depth * 22 / 32), depth - 1),)

    def _fresh(self) -> Values:
        device = self.base.runtime.device
        return {f"weights.{name}": torch.zeros(d, m, device=device) for name, (m, d) in self.sizes.items()}

    def _dense(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: values[f"weights.{name}"] for name in self.sizes}
