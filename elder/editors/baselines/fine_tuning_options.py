"""Options that all fine-tuning methods share. Imports no torch."""

from __future__ import annotations

from typing import Literal

from elder.options.fields import Count, Layers, NotNegative, Rate, Settings, Whole, setting


class FineTuningOptions(Settings):
    """Gradient descent on the edits' own answers, batch after batch, without a gate."""

    layers: Layers | None = setting(None, "blocks that are trained; default: the method's")
    modules: Literal["mlp_out", "mlp_in"] = setting(
        "mlp_out", "the MLP's output map, or its input maps (gate and up both, where it is gated)"
    )
    lr: Rate = setting(5e-4, "learning rate of Adam, which starts afresh with every batch")
    epochs: Count = setting(
        25, "times that all edits of a batch are gone through, each time in a new order", le=1_000_000
    )
    step_edits: Count = setting(100, "edits of one optimiser step")
    stop: NotNegative = setting(
        1e-2, "steps whose loss is below this are left out, and a batch whose mean loss is, is learnt"
    )
    terminator: Literal["none", "eos", "sentence"] = setting(
        "eos", "what is trained after the answer: nothing, the end token, or a full stop and the end token"
    )
    rephrases: bool = setting(False, "train the training half of the rephrases too, not only the prompt")
    batch_size: Count = setting(100, "edits learnt together")
    micro_batch: Count = setting(16, "rows in one forward and backward pass; more rows are accumulated")
    seed: Whole = setting(0, "seed of the order of edits, and of the initialisation where there is one")
