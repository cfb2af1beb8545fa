"""Options of MALMEN and of its training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass

from elder.hyper.options import TrainedOptions, TrainingOptions
from elder.options.checks import positive
from elder.options.fields import opt


@dataclass(frozen=True)
class MalmenOptions(TrainedOptions):
    """MALMEN (arXiv 2311.04661): as MEND, but the changes of all tokens are reconciled by a ridge regression."""

    ridge: float = opt(1.0, "ridge of an untrained network (trained: none); a trained one has its own in every map")

    def problems(self) -> list[str]:
        """What is impossible."""
        return super().problems() + positive(self, "ridge")


@dataclass(frozen=True)
class MalmenTraining(TrainingOptions):
    """Training MALMEN. Defaults are the reference configuration's for zsRE."""
