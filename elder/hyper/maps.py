"""The linear maps of a decoder that are written, by name. Knows the parts of models, nothing of gradients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from elder.errors import ModelError
from elder.models.anatomy import Anatomy, dimensions

Sizes = Mapping[str, tuple[int, int]]
"""Name of a map -> (in, out)."""


def edited_maps(parts: Anatomy, layers: Sequence[int], kind: str) -> dict[str, nn.Module]:
    """`5.mlp_out`, or `5.mlp_in.0` (the gate of a gated MLP) and `5.mlp_in.1`, of each block, in order.

    Raises:
        ModelError: A block does not exist, or its input maps are fused with others.
    """
    found: dict[str, nn.Module] = {}
    for layer in layers:
        parts.target(layer, kind)  # raises where it is missing
        if kind == "mlp_out":
            found[f"{layer}.mlp_out"] = parts.mlp_out[layer]
        else:
            found |= {f"{layer}.mlp_in.{i}": module for i, module in enumerate(parts.mlp_in[layer])}
    return found


def map_sizes(maps: Mapping[str, nn.Module]) -> dict[str, tuple[int, int]]:
    """(in, out) of each map.

    Raises:
        ModelError: One is no linear map.
    """
    found = {}
    for name, module in maps.items():
        size = dimensions(module)
        if size is None:
            raise ModelError(f"editor.layers: map {name} is no linear map but {type(module).__name__}")
        found[name] = size
    return found


def shape_name(size: tuple[int, int]) -> str:
    """The name of a shape in states: `11008x4096`."""
    return f"{size[0]}x{size[1]}"


def last_layers(depth: int, most: int) -> tuple[int, ...]:
    """The last `most` blocks, at most the upper half: MALMEN writes the last six, MEND the last three."""
    count = max(1, min(most, depth // 2))
    return tuple(range(depth - count, depth))


def late_layers(depth: int) -> tuple[int, ...]:
    """UltraEdit's blocks 18 to 26 of GPT-J's 28, at this relative depth."""
    first, last = round(depth * 18 / 28), round(depth * 26 / 28)
    return tuple(range(min(first, depth - 1), min(last, depth - 1) + 1))
