"""Finding the parts of a model by structure.

A part is found by what it is (a list of equal blocks, a linear map from the width to the inner width), never by
its name, so that new architectures work without a table. Knows nothing of editing.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from elder.errors import ModelError
from elder.models.attention import attention_of

INNER_SIZES = ("intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size")  # the MLPs' inner width in configs
EXPERTS = ("num_experts", "num_routed_experts")  # attributes of modules that send tokens to some of their MLPs


@dataclass(frozen=True)
class Anatomy:
    """The parts of a decoder that editing touches.

    Attributes:
        blocks: The transformer blocks in order.
        width: Size of the residual stream (D).
        inner: Inner size of the MLPs (I).
        mlp_in: For each block the maps D -> I, in order of definition (gated MLPs have two); empty if fused.
        mlp_out: For each block the map I -> D.
    """

    blocks: Sequence[nn.Module]
    width: int
    inner: int
    mlp_in: tuple[tuple[nn.Module, ...], ...]
    mlp_out: tuple[nn.Module, ...]

    @property
    def gated(self) -> bool:
        """Whether the MLPs have a gate beside the input map (or the two fused), as Llama has."""
        return len(self.mlp_in[0]) != 1

    def target(self, block: int, kind: str) -> nn.Module:
        """The linear map to edit in a block: kind is `mlp_in`, `mlp_out` or `auto` (out if gated, else in).

        Raises:
            ModelError: The block does not exist or has no such map.
        """
        if not 0 <= block < len(self.blocks):
            raise ModelError(
                f"editor.layers: the model has blocks 0 to {len(self.blocks) - 1}, there is no block {block}"
            )
        if kind == "mlp_out" or (kind == "auto" and self.gated):
            return self.mlp_out[block]
        if not self.mlp_in[block]:
            raise ModelError(f"editor.target: block {block} has no separate input map; use mlp_out")
        return self.mlp_in[block][-1]


def dimensions(module: nn.Module) -> tuple[int, int] | None:
    """(in, out) of a linear map, also when its weight is sharded away; None for other modules."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    return None


def anatomy(model: PreTrainedModel) -> Anatomy:
    """Find the blocks and MLP maps of a decoder.

    Raises:
        ModelError: The model has no list of equal blocks, its blocks share keys and values, its MLPs are mixtures of
            experts or not of the expected shape.
    """
    config = model.config.get_text_config()
    depth, width = config.num_hidden_layers, config.hidden_size
    inner = next((size for name in INNER_SIZES if (size := getattr(config, name, None))), 4 * width)
    lists = [
        m
        for m in model.modules()
        if isinstance(m, nn.ModuleList) and len(m) == depth and len({type(block) for block in m}) == 1
    ]
    if not lists:
        raise ModelError(f"{type(model).__name__} has no list of {depth} equal blocks; it cannot be edited by layers")
    if attention_of(model).shares:
        raise ModelError(
            f"{type(model).__name__}: some of its blocks use the keys and values of others and see other tokens than "
            "those, so that no block can be edited for itself. Such models cannot be edited; take one without "
            "(num_kv_shared_layers: 0)"
        )
    blocks = lists[0]  # modules() walks from the outside in: the first is the outermost
    maps_in, maps_out = [], []
    for i, block in enumerate(blocks):
        linear = [(m, dimensions(m)) for m in block.modules() if dimensions(m)]
        out = [m for m, size in linear if size == (inner, width)]
        experts = _has_experts(block)
        if experts or len(out) != 1:
            raise ModelError(
                f"{type(model).__name__}, block {i}: expected one linear map {inner} -> {width} that every token "
                f"passes, found {_found(experts, len(out))}"
            )
        siblings = {id(m) for parent in block.modules() if out[0] in parent.children() for m in parent.children()}
        maps_in.append(tuple(m for m, size in linear if size == (width, inner) and id(m) in siblings))
        maps_out.append(out[0])
    return Anatomy(list(blocks), width, inner, tuple(maps_in), tuple(maps_out))


def _has_experts(block: nn.Module) -> bool:
    counts = (getattr(module, name, None) for module in block.modules() for name in EXPERTS)
    return any(isinstance(count, int) and count > 1 for count in counts)


def _found(experts: bool, maps: int) -> str:
    if experts:
        return (
            "a mixture-of-experts MLP: tokens take different ways through it, so that no one map holds a fact, and a "
            "shared expert's share differs from token to token. Such models cannot be edited; take a dense one"
        )
    if maps:
        return f"{maps}: attention is as wide as the MLP, so they cannot be told apart. Such models cannot be edited"
    return "0: its MLP has another shape. Such models cannot be edited"


def check_rows(x: Tensor) -> None:
    """Refuse to work on a map that does not see which token belongs to which row.

    Raises:
        ModelError: Its input has not the shape (rows, tokens, width).
    """
    if x.dim() != 3:
        raise ModelError(
            f"editor.target: this model (like OPT) hands its MLP tokens of shape {tuple(x.shape)} instead of "
            "(rows, tokens, width), so that rows cannot be told apart; such models cannot be edited"
        )


def clone_sharing_weights(model: PreTrainedModel) -> PreTrainedModel:
    """A second module tree over the same parameter and buffer objects: hooks and patches on it affect it alone."""
    memo: dict[int, Any] = {id(p): p for p in model.parameters()}
    memo |= {id(b): b for b in model.buffers()}
    return copy.deepcopy(model, memo)
