"""EMMET: a batch of facts exactly, or by least squares."""

from __future__ import annotations

from torch import Tensor

from elder.editors.weights.emmet_options import EmmetOptions
from elder.editors.weights.locate import LocateEditor
from elder.solvers.equality import equality_gain
from elder.solvers.ridge import ridge_gain


class EmmetEditor(LocateEditor):
    """EMMET (arXiv 2403.14236, eq. 7). With a regulariser a and weight w it is MEMIT with lambda = w a."""

    method = "emmet"
    options: EmmetOptions

    def _update(self, layer: int, keys: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
        o = self.options
        if o.ridge == 0 or keys.shape[1] == 1:  # the reference leaves the regulariser out for one fact
            return residuals, equality_gain(keys, self.prior(layer))
        return residuals, ridge_gain(keys, self.prior(layer), o.weight * o.ridge)
