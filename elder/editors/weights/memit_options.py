"""Options of MEMIT. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from elder.editors.weights.locate_options import LocateOptions
from elder.options.fields import opt


@dataclass(frozen=True)
class MemitOptions(LocateOptions):
    """MEMIT (arXiv 2210.07229): a batch of facts by least squares, spread over several blocks."""

    ridge: float = opt(15_000.0, "weight of preservation (lambda, mom2_update_weight)")
    cache: bool = opt(True, "preserve the keys of earlier batches too, so that batch size is a question of speed")

    def problems(self) -> list[str]:
        """What is impossible."""
        return super().problems() + ([] if self.ridge > 0 else [f"ridge: must be positive, found {self.ridge}"])
