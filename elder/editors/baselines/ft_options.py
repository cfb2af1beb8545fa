"""Options of breadth-first fine-tuning. Imports no torch."""

from __future__ import annotations

from elder.editors.baselines.fine_tuning_options import FineTuningOptions


class FtOptions(FineTuningOptions):
    """LocFT-BF (arXiv 2509.22072): one map fine-tuned over epochs of all edits of a batch; defaults are its code's."""
