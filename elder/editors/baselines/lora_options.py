"""Options of one LoRA. Imports no torch."""

from __future__ import annotations

from elder.editors.baselines.fine_tuning_options import FineTuningOptions
from elder.options.fields import Count, Number, Rate, setting


class LoraOptions(FineTuningOptions):
    """One LoRA (arXiv 2106.09685) for the whole stream; ELDER's settings, since those of its row are not published."""

    rank: Count = setting(8, "rank of the LoRA of each map", le=16384)
    alpha: Number | None = setting(None, "the LoRA's scale is alpha / rank; default: alpha = rank")
    lr: Rate = setting(1e-4, "learning rate of Adam, which starts afresh with every batch")
    epochs: Count = setting(
        50, "times that all edits of a batch are gone through, each time in a new order", le=1_000_000
    )
    step_edits: Count = setting(4, "edits of one optimiser step")
    batch_size: Count = setting(4, "edits learnt together")
