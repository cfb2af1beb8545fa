"""Options of AlphaEdit. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from elder.editors.weights.locate_options import LocateOptions
from elder.options.fields import opt


@dataclass(frozen=True)
class AlphaEditOptions(LocateOptions):
    """AlphaEdit (arXiv 2410.02355): least squares inside the directions that ordinary text hardly uses."""

    threshold: float = opt(2e-2, "directions with a second moment below this are free to be written")
    relative: bool = opt(False, "measure the threshold in units of the mean second moment of the layer")
    ridge: float = opt(10.0, "weight of the update's own size (L2)")

    def problems(self) -> list[str]:
        """What is impossible."""
        found = super().problems()
        if not self.ridge > 0:
            found.append(f"ridge: must be positive, found {self.ridge}")
        if not self.threshold > 0:
            found.append(f"threshold: must be positive, found {self.threshold}")
        return found
