"""Options of UltraEdit. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from elder.hyper.options import FactorEditorOptions
from elder.options.checks import positive
from elder.options.fields import opt


@dataclass(frozen=True)
class UltraEditOptions(FactorEditorOptions):
    """UltraEdit (arXiv 2505.14679): no training, no subject; normalises by all it has ever seen."""

    lr: float = opt(1e-6, "how far outputs are shifted: the shift of a token is -lr ||normalised key||^2 gradient")
    ridge: float = opt(1.0, "weight of the update's own size in the regression from keys to shifts")

    def problems(self) -> list[str]:
        """What is impossible."""
        return super().problems() + positive(self, "lr", "ridge")
