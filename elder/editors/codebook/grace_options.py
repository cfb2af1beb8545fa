"""Options of GRACE. Imports no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import field_validator

from elder.options.fields import Count, Layers, Positive, Rate, Settings, Whole, setting


class GraceOptions(Settings):
    """GRACE (NeurIPS 2023). Rate, steps, radius and the way of replacing are those of the reference code."""

    layers: Layers | None = setting(None, "the one block whose MLP map is replaced; default: three quarters up")
    target: Literal["auto", "mlp_in", "mlp_out"] = setting(
        "auto", "which linear map of the MLP is replaced; auto: mlp_out of gated MLPs (Llama), mlp_in of others (GPT-2)"
    )
    replacement: Literal["last", "prompt", "all"] = setting(
        "last",
        "where the stored value stands: at the last prompt token, at all prompt tokens before it, or at all tokens",
    )
    radius: Positive = setting(1.0, "radius of a new key (the initial epsilon), in the units of keys")
    value_init: Literal["cold", "warm"] = setting(
        "cold", "a new value is uniform in 0 to 1 (cold), or what the map gives at the key (warm)"
    )
    lr: Rate = setting(1.0, "learning rate of Adam, which starts afresh with every batch")
    steps: Count = setting(100, "optimiser steps a batch", le=1_000_000)
    batch_size: Count = setting(10, "edits whose values are trained together; they do not see each other")
    terminator: Literal["none", "eos", "sentence"] = setting(
        "eos", "what is trained after the answer: nothing, the end token, or a full stop and the end token"
    )
    micro_batch: Count = setting(64, "rows in one forward pass; more rows are accumulated")
    seed: Whole = setting(0, "seed of cold values")

    @field_validator("layers")
    @classmethod
    def _one_block(cls, layers: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if layers is not None and len(layers) != 1:
            raise ValueError(f"GRACE replaces the map of one block, {len(layers)} are named")
        return layers
