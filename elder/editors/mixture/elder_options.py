"""Options of ELDER. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from elder.options.fields import Count, Layers, Natural, NotNegative, Number, Rate, Settings, Whole, setting

WIDEST = 65_536  # rank times experts; the widest maps of today's models have fewer rows


class ElderOptions(Settings):
    """ELDER as published. Defaults are the paper's where it gives them (AAAI 2025, section 4 and appendix)."""

    layers: Layers | None = setting(None, "blocks that get a mixture; default: the paper's relative depth")
    target: Literal["auto", "mlp_in", "mlp_out"] = setting(
        "auto", "which linear map of the MLP is edited; auto: mlp_out of gated MLPs (Llama), mlp_in of others (GPT-2)"
    )
    query_layer: Whole | None = setting(None, "block whose target input is the query; default: the one before `layers`")
    rank: Count = setting(8, "rank of each LoRA", le=16384)
    experts: Count = setting(4, "LoRAs in each layer (N)")
    top_k: Count = setting(2, "LoRAs that a sequence uses in each layer (k)")
    alpha: Number | None = setting(None, "LoRA scale is alpha / rank; default: alpha = rank")
    init: Literal["reference", "standard"] = setting(
        "reference", "LoRA A uniform in ±1/sqrt(rank), as the reference code, or ±1/sqrt(in), as LoRA"
    )
    router_bias: bool = setting(True, "routers have a bias (the reference code has, the paper's formula has not)")
    lr: Rate = setting(1e-4, "learning rate of Adam, which starts afresh with every batch")
    steps: Count = setting(50, "optimiser steps a batch", le=1_000_000)
    guide_weight: NotNegative = setting(1e-2, "weight of the guided loss (lambda)")
    epsilon: Natural = setting(12, "in scope if the Hamming distance to a stored code is below this (strict)")
    batch_size: Count = setting(4, "edits applied together")
    terminator: Literal["none", "eos", "sentence"] = setting(
        "eos", "what is trained after the answer: nothing, the end token, or a full stop and the end token"
    )
    micro_batch: Count = setting(64, "rows in one forward pass; more rows are accumulated")
    seed: Whole = setting(0, "seed of initialisation and allocation")

    @field_validator("query_layer")
    @classmethod
    def _query_below_edited_blocks(cls, query_layer: int | None, info: ValidationInfo) -> int | None:
        layers = info.data.get("layers")
        if query_layer is not None and layers and query_layer >= layers[0]:
            raise ValueError(f"{query_layer} must lie below the first edited block {layers[0]}")
        return query_layer

    @field_validator("experts")
    @classmethod
    def _not_wider_than_any_model(cls, experts: int, info: ValidationInfo) -> int:
        if experts * info.data.get("rank", 1) > WIDEST:
            raise ValueError(
                f"{experts} LoRAs of rank {info.data['rank']} are more than {WIDEST:,} directions in a layer"
            )
        return experts

    @field_validator("top_k")
    @classmethod
    def _enough_experts(cls, top_k: int, info: ValidationInfo) -> int:
        if top_k > info.data.get("experts", top_k):
            raise ValueError(f"{top_k} LoRAs cannot be chosen out of experts = {info.data['experts']}")
        return top_k
