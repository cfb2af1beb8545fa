"""Options of MEMIT. Imports no torch."""

from __future__ import annotations

from elder.editors.weights.locate_options import LocateOptions
from elder.options.fields import Positive, setting


class MemitOptions(LocateOptions):
    """MEMIT (arXiv 2210.07229): a batch of facts by least squares, spread over several blocks."""

    ridge: Positive = setting(15_000.0, "weight of preservation (lambda, mom2_update_weight)")
    cache: bool = setting(True, "preserve the keys of earlier batches too, so that batch size is a question of speed")
