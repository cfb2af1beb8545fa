"""Options of MELO. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import ValidationInfo, field_validator

from elder.options.fields import Count, Layers, Positive, Rate, Settings, Whole, setting


class MeloOptions(Settings):
    """MELO, neuron-indexed dynamic LoRA (AAAI 2024). Rank, factor and rate are those of the reference for zsRE.

    The reference multiplies a block's map by the number of blocks that it has set aside, and draws A within
    1/sqrt(that number x rank), so that its answers depend on an allocation. Here both are options.
    """

    layers: Layers | None = setting(None, "blocks whose MLP map is corrected; default: two at the paper's depth")
    target: Literal["auto", "mlp_in", "mlp_out"] = setting(
        "auto", "which linear map of the MLP is edited; auto: mlp_out of gated MLPs (Llama), mlp_in of others (GPT-2)"
    )
    key_layer: Whole | None = setting(
        None, "block whose target output at the last prompt token is the key; default: the one before `layers`"
    )
    rank: Count = setting(2, "rank of a block, which the edits of one batch share (p)", le=16384)
    scaling: Positive = setting(20.0, "factor of a block's map; reference: the number of blocks that it sets aside")
    init_bound: Positive | None = setting(
        None, "A is uniform within this; default: 1/sqrt(in); reference: 1/sqrt(blocks set aside x rank)"
    )
    radius: Positive = setting(
        0.5, "radius of a new cluster of keys (R0), in the units of keys; see docs/melo.md for how to choose it"
    )
    lr: Rate = setting(1e-2, "learning rate of Adam, which starts afresh with every batch")
    steps: Count = setting(50, "optimiser steps a batch", le=1_000_000)
    lr_decay_every: Count = setting(20, "steps after which the learning rate is multiplied by `lr_decay`")
    lr_decay: Rate = setting(0.5, "factor of the learning rate after every `lr_decay_every` steps; 1: none", le=1)
    batch_size: Count = setting(4, "edits applied together; they share a block")
    terminator: Literal["none", "eos", "sentence"] = setting(
        "eos", "what is trained after the answer: nothing, the end token, or a full stop and the end token"
    )
    micro_batch: Count = setting(64, "rows in one forward pass; more rows are accumulated")
    seed: Whole = setting(0, "seed of initialisation")

    @field_validator("key_layer")
    @classmethod
    def _key_below_edited_blocks(cls, key_layer: int | None, info: ValidationInfo) -> int | None:
        layers = info.data.get("layers")
        if key_layer is not None and layers and key_layer >= layers[0]:
            raise ValueError(f"{key_layer} must lie below the first edited block {layers[0]}")
        return key_layer
