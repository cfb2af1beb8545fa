"""Options of MEND and of its training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elder.hyper.options import TrainedOptions, TrainingOptions
from elder.options.fields import opt


@dataclass(frozen=True)
class MendOptions(TrainedOptions):
    """MEND (arXiv 2110.11309): a trained network changes each token's gradient factors; the changes are added up."""

    tokens: Literal["answer", "all"] = opt(
        "all", "positions whose factors count: those that predict the answer, or all"
    )
    lr: float = opt(1e-4, "inner learning rate of an untrained network (trained: none); a trained one has its own")
    batch_size: int = opt(10, "edits written together (a turn)")


@dataclass(frozen=True)
class MendTraining(TrainingOptions):
    """Training MEND. Defaults are the reference configuration's."""

    tokens: Literal["answer", "all"] = opt(
        "all", "positions whose factors count: those that predict the answer, or all"
    )
    lr: float = opt(1e-4, "inner learning rate at the beginning; learnt in every map")
    meta_lr: float = opt(1e-6, "learning rate of Adam for the network")
    edit_coef: float = opt(0.1, "weight of the cross-entropy on rephrases")
    clip: float = opt(100.0, "gradients are scaled down to this norm")
    n_edits: int = opt(1, "facts of one block, edited together in one step")
    accumulate: int = opt(10, "blocks whose gradients are added up for one step of Adam")
