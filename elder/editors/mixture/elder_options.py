"""Options of the editing methods: frozen dataclasses, each field with its help. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from elder.options.fields import opt


@dataclass(frozen=True)
class ElderOptions:
    """ELDER as published. Defaults are the paper's where it gives them (AAAI 2025, section 4 and appendix)."""

    layers: tuple[int, ...] | None = opt(None, "blocks that get a mixture; default: the paper's relative depth")
    target: Literal["auto", "mlp_in", "mlp_out"] = opt(
        "auto", "which linear map of the MLP is edited; auto: mlp_out of gated MLPs (Llama), mlp_in of others (GPT-2)"
    )
    query_layer: int | None = opt(None, "block whose target input is the query; default: the one before `layers`")
    rank: int = opt(8, "rank of each LoRA")
    experts: int = opt(4, "LoRAs in each layer (N)")
    top_k: int = opt(2, "LoRAs that a sequence uses in each layer (k)")
    alpha: float | None = opt(None, "LoRA scale is alpha / rank; default: alpha = rank")
    init: Literal["reference", "standard"] = opt(
        "reference", "LoRA A uniform in ±1/sqrt(rank), as the reference code, or ±1/sqrt(in), as LoRA"
    )
    router_bias: bool = opt(True, "routers have a bias (the reference code has, the paper's formula has not)")
    lr: float = opt(1e-4, "learning rate of Adam, which starts afresh with every batch")
    steps: int = opt(50, "optimiser steps a batch")
    guide_weight: float = opt(1e-2, "weight of the guided loss (lambda)")
    epsilon: int = opt(12, "in scope if the Hamming distance to a stored code is below this (strict)")
    batch_size: int = opt(4, "edits applied together")
    terminator: Literal["none", "eos", "sentence"] = opt(
        "eos", "what is trained behind the answer: nothing, the end token, or a full stop and the end token"
    )
    micro_batch: int = opt(64, "rows in one forward pass; more rows are accumulated")
    seed: int = opt(0, "seed of initialisation and allocation")

    def problems(self) -> list[str]:
        """What is impossible about these values, each line beginning with the option's name."""
        found = []
        for name in ("rank", "experts", "top_k", "steps", "batch_size", "micro_batch"):
            if getattr(self, name) < 1:
                found.append(f"{name}: must be at least 1, found {getattr(self, name)}")
        if self.top_k > self.experts:
            found.append(f"top_k: {self.top_k} LoRAs cannot be chosen out of experts = {self.experts}")
        if not 0 < self.lr < float("inf"):
            found.append(f"lr: must be positive, found {self.lr}")
        if self.guide_weight < 0:
            found.append(f"guide_weight: must not be negative, found {self.guide_weight}")
        if self.epsilon < 0:
            found.append(f"epsilon: must not be negative, found {self.epsilon}")
        if self.layers is not None:
            if not self.layers:
                found.append("layers: the list is empty")
            elif list(self.layers) != sorted(set(self.layers)) or self.layers[0] < 0:
                found.append(f"layers: expected different block numbers in rising order, found {list(self.layers)}")
            elif self.query_layer is not None and self.query_layer >= self.layers[0]:
                found.append(f"query_layer: {self.query_layer} must lie below the first edited block {self.layers[0]}")
        return found
