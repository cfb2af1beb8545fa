"""Constrained fine-tuning: FT-L, from "Modifying Memories in Transformer Models" (arXiv 2012.00363).

After every step each weight is put back to within `bound` of what it was when the batch began, as in ROME's code. So a
stream of n batches may move a weight by n bounds. Deviation: that code predicts all tokens of an answer from the last
prompt token; here each is predicted from those before it.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from elder.editors.baselines.ft import FtEditor
from elder.editors.baselines.ft_l_options import FtLOptions


class FtLEditor(FtEditor):
    """See the module's text."""

    method = "ft-l"
    options: FtLOptions

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """Block 0, as ROME's code has it for GPT-2 XL."""
        return (0,)

    def _after_step(self, values: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
        bound = self.options.bound
        for name, value in values.items():
            value.clamp_(before[name] - bound, before[name] + bound)
