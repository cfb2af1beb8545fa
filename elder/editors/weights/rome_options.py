"""Options of ROME. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from elder.editors.weights.locate_options import LocateOptions
from elder.options.fields import opt


@dataclass(frozen=True)
class RomeOptions(LocateOptions):
    """ROME (arXiv 2202.05262): one fact at a time, exactly, in one block."""

    clamp: float = opt(4.0, "a value stays within so many times the length of its start")
    batch_size: int = opt(1, "edits handed over together; ROME writes them one after another")
    statistics: bool = opt(True, "weigh directions by the second moment of ordinary keys; off: plain minimum norm")
    shared_key: bool = opt(
        False, "use the mean key on both sides of the update (R-ROME); off: mean and bare key, as published"
    )

    @property
    def needs_statistics(self) -> bool:
        """Not for the plain minimum norm."""
        return self.statistics

    def problems(self) -> list[str]:
        """What is impossible."""
        several = self.layers is not None and len(self.layers) > 1
        return super().problems() + (["layers: ROME writes one block"] if several else [])
