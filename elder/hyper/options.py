"""Options of the editors that turn gradients into weight changes, and of their training. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elder.options.checks import at_least_one, bounded_change, not_negative, positive, rising_layers
from elder.options.fields import opt

UNTRAINED = "none"  # what `trained` says when a network without training is meant


@dataclass(frozen=True)
class FactorOptions:
    """What UltraEdit, MEND and MALMEN share: which maps they write and which gradients they read."""

    layers: tuple[int, ...] | None = opt(None, "blocks that are written; default: the method's, by relative depth")
    modules: Literal["mlp_out", "mlp_in"] = opt(
        "mlp_out", "the MLP's output map, or its input maps (gate and up both, where it is gated)"
    )
    tokens: Literal["answer", "all"] = opt(
        "answer", "positions whose factors count: those that predict the answer, or all"
    )
    loss: Literal["edit", "sum", "token"] = opt(
        "edit",
        "answers' cross-entropy as a mean over each edit's tokens, a sum over tokens, or a mean over all tokens of the "
        "batch (as the reference code)",
    )
    terminator: Literal["none", "eos", "sentence"] = opt(
        "none", "what is taught behind the answer: nothing, the end token, or a full stop and the end token"
    )
    micro_batch: int = opt(16, "rows in one forward and backward pass")

    def problems(self) -> list[str]:
        """What is impossible about these values, each line beginning with the option's name."""
        return at_least_one(self, "micro_batch") + rising_layers(self.layers)


@dataclass(frozen=True)
class FactorEditorOptions(FactorOptions):
    """What all editors of the family have beside that."""

    batch_size: int = opt(100, "edits written together (a turn)")
    rephrases: bool = opt(False, "read the gradients of the training half of the rephrases too, not only the prompt's")
    max_change: float | None = opt(
        None, "refuse a batch whose ||D|| / ||W|| in a map is above this, before it is written; null writes all"
    )

    def problems(self) -> list[str]:
        """What is impossible."""
        return super().problems() + at_least_one(self, "batch_size") + bounded_change(self.max_change)


@dataclass(frozen=True)
class TrainedOptions(FactorEditorOptions):
    """What MEND and MALMEN share: the trained network they use."""

    trained: str | None = opt(
        None, "trained editor: a directory, or the id of an `elder train-editor` run; `none`: an untrained network"
    )
    lr: float = opt(1e-6, "inner learning rate of an untrained network (trained: none); a trained one has its own")

    def problems(self) -> list[str]:
        """What is impossible."""
        return super().problems() + positive(self, "lr")


@dataclass(frozen=True)
class TrainingOptions(FactorOptions):
    """How a hyper-network is built and trained."""

    rank: int = opt(1920, "rank of the network's maps; at most the width of what it reads")
    blocks: int = opt(2, "residual blocks of the network")
    lr: float = opt(1e-6, "inner learning rate at the beginning; learnt in every map")
    meta_lr: float = opt(1e-5, "learning rate of Adam for the network")
    scalar_lr: float | None = opt(
        None, "learning rate of Adam for the logarithms of inner learning rate and ridge; default: meta_lr"
    )
    own_prompt: bool = opt(
        False, "the cross-entropy is taken on a rephrase, as published, or (on) on one drawn from them and the prompt"
    )
    edit_coef: float = opt(1.0, "weight of the cross-entropy on rephrases")
    loc_coef: float = opt(1.0, "weight of KL(before || after) on unrelated prompts")
    clip: float = opt(1.0, "gradients are scaled down to this norm")
    n_edits: int = opt(512, "facts of one block, edited together in one step")
    accumulate: int = opt(1, "blocks whose gradients are added up for one step of Adam")
    chunk: int = opt(1024, "tokens that pass through the network together")
    seed: int = opt(0, "seed of the network and of the choice of rephrases and unrelated prompts")

    def problems(self) -> list[str]:
        """What is impossible."""
        found = super().problems() + positive(self, "lr", "meta_lr", "clip")
        found += at_least_one(self, "rank", "blocks", "n_edits", "accumulate", "chunk")
        found += not_negative(self, "edit_coef", "loc_coef")
        return found + (not_negative(self, "scalar_lr") if self.scalar_lr is not None else [])
