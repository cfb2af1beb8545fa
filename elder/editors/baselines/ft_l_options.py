"""Options of constrained fine-tuning. Imports no torch."""

from __future__ import annotations

from elder.editors.baselines.fine_tuning_options import FineTuningOptions
from elder.options.fields import Count, Positive, setting


class FtLOptions(FineTuningOptions):
    """FT-L (arXiv 2012.00363, as ROME's code has it for GPT-2 XL): no weight moves by more than a bound in a batch."""

    bound: Positive = setting(5e-4, "the most that a batch may move a weight (norm_constraint)")
    step_edits: Count = setting(1, "edits of one optimiser step")
    batch_size: Count = setting(1, "edits learnt together")
