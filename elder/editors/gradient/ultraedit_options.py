"""Options of UltraEdit. Imports no torch."""

from __future__ import annotations

from elder.hyper.options import FactorEditorOptions
from elder.options.fields import Positive, Rate, setting


class UltraEditOptions(FactorEditorOptions):
    """UltraEdit (arXiv 2505.14679): no training, no subject; normalises by all it has ever seen."""

    lr: Rate = setting(1e-6, "how far outputs are shifted: the shift of a token is -lr ||normalised key||^2 gradient")
    ridge: Positive = setting(1.0, "weight of the update's own size in the regression from keys to shifts")
