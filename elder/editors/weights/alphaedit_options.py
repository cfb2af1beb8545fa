"""Options of AlphaEdit. Imports no torch."""

from __future__ import annotations

from elder.editors.weights.locate_options import LocateOptions
from elder.options.fields import Positive, setting


class AlphaEditOptions(LocateOptions):
    """AlphaEdit (arXiv 2410.02355): least squares inside the directions that ordinary text hardly uses."""

    threshold: Positive = setting(2e-2, "directions with a second moment below this are free to be written")
    relative: bool = setting(False, "measure the threshold in units of the mean second moment of the layer")
    ridge: Positive = setting(10.0, "weight of the update's own size (L2)")
