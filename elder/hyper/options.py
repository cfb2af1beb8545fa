"""Options of the editors that turn gradients into weight changes, and of their training. Imports no torch."""

from __future__ import annotations

from typing import Literal

from elder.options.fields import Count, Layers, NotNegative, Positive, Rate, Settings, Whole, setting

UNTRAINED = "none"  # the value of `trained` for a network without training


class FactorOptions(Settings):
    """Options of UltraEdit, MEND and MALMEN: which maps they write and which gradients they read."""

    layers: Layers | None = setting(None, "blocks that are written; default: the method's, by relative depth")
    modules: Literal["mlp_out", "mlp_in"] = setting(
        "mlp_out", "the MLP's output map, or its input maps (gate and up both, where it is gated)"
    )
    tokens: Literal["answer", "all"] = setting(
        "answer", "positions whose factors count: those that predict the answer, or all"
    )
    loss: Literal["edit", "sum", "token"] = setting(
        "edit",
        "answers' cross-entropy as a mean over each edit's tokens, a sum over tokens, or a mean over all tokens of the "
        "batch (as the reference code)",
    )
    terminator: Literal["none", "eos", "sentence"] = setting(
        "none", "what is taught after the answer: nothing, the end token, or a full stop and the end token"
    )
    micro_batch: Count = setting(16, "rows in one forward and backward pass")


class FactorEditorOptions(FactorOptions):
    """Further options of all editors of the family."""

    batch_size: Count = setting(100, "edits written together (a turn)")
    rephrases: bool = setting(
        False, "read the gradients of the training half of the rephrases too, not only the prompt's"
    )
    max_change: Positive | None = setting(
        None, "refuse a batch whose ||D|| / ||W|| in a map is above this, before it is written; null writes all"
    )


class TrainedOptions(FactorEditorOptions):
    """Options of MEND and MALMEN: the trained network they use."""

    trained: str | None = setting(
        None, "trained editor: a directory, or the id of an `elder train-editor` run; `none`: an untrained network"
    )
    lr: Rate = setting(1e-6, "inner learning rate of an untrained network (trained: none); a trained one has its own")


class TrainingOptions(FactorOptions):
    """How a hyper-network is built and trained."""

    rank: Count = setting(1920, "rank of the network's maps; at most the width of what it reads", le=16384)
    blocks: Count = setting(2, "residual blocks of the network", le=100)
    lr: Rate = setting(1e-6, "inner learning rate at the beginning; learnt in every map")
    meta_lr: Rate = setting(1e-5, "learning rate of Adam for the network")
    scalar_lr: NotNegative | None = setting(
        None, "learning rate of Adam for the logarithms of inner learning rate and ridge; default: meta_lr"
    )
    own_prompt: bool = setting(
        False, "the cross-entropy is taken on a rephrase, as published, or (on) on one drawn from them and the prompt"
    )
    edit_coef: NotNegative = setting(1.0, "weight of the cross-entropy on rephrases")
    loc_coef: NotNegative = setting(1.0, "weight of KL(before || after) on unrelated prompts")
    clip: Positive = setting(1.0, "gradients are scaled down to this norm")
    n_edits: Count = setting(512, "facts of one block, edited together in one step")
    accumulate: Count = setting(1, "blocks whose gradients are added up for one step of Adam")
    chunk: Count = setting(1024, "tokens that pass through the network together")
    seed: Whole = setting(0, "seed of the network and of the choice of rephrases and unrelated prompts")
