"""Options of MALMEN and of its training. Imports no torch."""

from __future__ import annotations

from elder.hyper.options import TrainedOptions, TrainingOptions
from elder.options.fields import Positive, setting


class MalmenOptions(TrainedOptions):
    """MALMEN (arXiv 2311.04661): as MEND, but the changes of all tokens are reconciled by a ridge regression."""

    ridge: Positive = setting(
        1.0, "ridge of an untrained network (trained: none); a trained one has its own in every map"
    )


class MalmenTraining(TrainingOptions):
    """Training MALMEN. Defaults are the reference configuration's for zsRE."""
