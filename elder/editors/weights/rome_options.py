"""Options of ROME. Imports no torch."""

from __future__ import annotations

from pydantic import field_validator

from elder.editors.weights.locate_options import LocateOptions
from elder.options.fields import Count, Positive, setting


class RomeOptions(LocateOptions):
    """ROME (arXiv 2202.05262): one fact at a time, exactly, in one block."""

    clamp: Positive = setting(4.0, "a value stays within so many times the length of its start")
    batch_size: Count = setting(1, "edits handed over together; ROME writes them one after another")
    statistics: bool = setting(True, "weigh directions by the second moment of ordinary keys; off: plain minimum norm")
    shared_key: bool = setting(
        False, "use the mean key on both sides of the update (R-ROME); off: mean and bare key, as published"
    )

    @property
    def needs_statistics(self) -> bool:
        """Not for the plain minimum norm."""
        return self.statistics

    @field_validator("layers")
    @classmethod
    def _one_block(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and len(layers) > 1:
            raise ValueError("ROME writes one block")
        return layers
