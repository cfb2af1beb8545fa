"""Options of EMMET. Imports no torch."""

from __future__ import annotations

from elder.editors.weights.locate_options import LocateOptions
from elder.options.fields import NotNegative, Positive, setting


class EmmetOptions(LocateOptions):
    """EMMET (arXiv 2403.14236): facts of a batch exactly, or, regularised, MEMIT with lambda = weight x ridge."""

    weight: Positive = setting(1.0, "weight of preservation (w, mom2_update_weight)")
    ridge: NotNegative = setting(0.1, "regulariser (a, emmet_lambda); 0: every fact holds exactly")
