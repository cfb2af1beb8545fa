"""Options of MEND and of its training. Imports no torch."""

from __future__ import annotations

from typing import Literal

from elder.hyper.options import TrainedOptions, TrainingOptions
from elder.options.fields import Count, NotNegative, Positive, Rate, setting


class MendOptions(TrainedOptions):
    """MEND (arXiv 2110.11309): a trained network changes each token's gradient factors; the changes are added up."""

    tokens: Literal["answer", "all"] = setting(
        "all", "positions whose factors count: those that predict the answer, or all"
    )
    lr: Rate = setting(1e-4, "inner learning rate of an untrained network (trained: none); a trained one has its own")
    batch_size: Count = setting(10, "edits written together (a turn)")


class MendTraining(TrainingOptions):
    """Training MEND. Defaults are the reference configuration's."""

    tokens: Literal["answer", "all"] = setting(
        "all", "positions whose factors count: those that predict the answer, or all"
    )
    lr: Rate = setting(1e-4, "inner learning rate at the beginning; learnt in every map")
    meta_lr: Rate = setting(1e-6, "learning rate of Adam for the network")
    edit_coef: NotNegative = setting(0.1, "weight of the cross-entropy on rephrases")
    clip: Positive = setting(100.0, "gradients are scaled down to this norm")
    n_edits: Count = setting(1, "facts of one block, edited together in one step")
    accumulate: Count = setting(10, "blocks whose gradients are added up for one step of Adam")
