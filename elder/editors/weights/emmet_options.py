"""Options of EMMET. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from elder.editors.weights.locate_options import LocateOptions
from elder.options.fields import opt


@dataclass(frozen=True)
class EmmetOptions(LocateOptions):
    """EMMET (arXiv 2403.14236): facts of a batch exactly, or, regularised, MEMIT with lambda = weight x ridge."""

    weight: float = opt(1.0, "weight of preservation (w, mom2_update_weight)")
    ridge: float = opt(0.1, "regulariser (a, emmet_lambda); 0: every fact holds exactly")

    def problems(self) -> list[str]:
        """What is impossible."""
        found = super().problems()
        if not self.weight > 0:
            found.append(f"weight: must be positive, found {self.weight}")
        if not self.ridge >= 0:
            found.append(f"ridge: must not be negative, found {self.ridge}")
        return found
