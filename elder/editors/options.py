"""Options of the editing methods: frozen dataclasses, each field with its help. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


def opt(default: Any, help: str) -> Any:
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": help})


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


@dataclass(frozen=True)
class ElderPlusOptions(ElderOptions):
    """Our ELDER. What differs from the paper is described, with measurements, in docs/elder_plus.md."""

    layers: tuple[int, ...] | None = opt(None, "blocks that get a mixture; default: the last three eighths")
    experts: int = opt(16, "LoRAs in each layer (N)")
    lr: float = opt(5e-3, "learning rate of Adam, which starts afresh with every batch")
    guide_weight: float = opt(1e-2, "weight of the guided loss; used with routing: router")
    batch_size: int = opt(10, "edits applied together")
    subject_layer: int = opt(0, "block whose input gives the subject keys; 0: the token embeddings")
    gate: Literal["keys", "hamming"] = opt("keys", "deferral by calibrated keys, or by Hamming distance as in ELDER")
    routing: Literal["allocated", "router"] = opt(
        "allocated", "a matched edit uses its allocated LoRAs, or what the router makes of its stored key"
    )
    start: Literal["answer", "prompt"] = opt(
        "answer", "correct from the last prompt token on, or the whole prompt as ELDER does"
    )
    parameters_per_edit: int = opt(
        3000, "room: low-rank parameters for each edit; when a group of LoRAs is full a new one opens; 0: never"
    )
    replay: int = opt(40, "rows of earlier edits in every step; 0: none")
    replay_pool: int = opt(4, "how many different sets of replayed rows a batch draws")
    prefixes: int = opt(2, "training prompts of each edit that are repeated behind an unrelated sentence")
    subject_tokens: int = opt(8, "tokens of a subject that are kept as keys")
    key_width: int = opt(256, "keys are projected to this width if the model is wider")
    subject_threshold: float | None = opt(None, "fixed threshold of the subject match; default: calibrated")
    answer_threshold: float | None = opt(None, "fixed threshold of the match at the last token; default: calibrated")
    extra_steps: int = opt(50, "further steps for a batch that is not yet learnt")
    learnt_below: float = opt(0.05, "a batch is learnt when every row's mean answer loss is below this, in nats")

    def problems(self) -> list[str]:
        """See `ElderOptions.problems`."""
        found = super().problems()
        for name in ("replay", "prefixes", "extra_steps", "parameters_per_edit", "subject_layer"):
            if getattr(self, name) < 0:
                found.append(f"{name}: must not be negative, found {getattr(self, name)}")
        for name in ("replay_pool", "subject_tokens", "key_width"):
            if getattr(self, name) < 1:
                found.append(f"{name}: must be at least 1, found {getattr(self, name)}")
        return found
