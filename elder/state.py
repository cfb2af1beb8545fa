"""The state of an editor as tensors, and digests of states and weights. Knows nothing of methods."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from elder.json_text import parse_json
from elder.runtime import Runtime, told_by_first


def weights_digest(model: nn.Module, runtime: Runtime) -> str:
    """sha256 over names, dtypes, shapes and bytes of all parameters; the same for every sharding. Collective.

    Rank 0 computes it for all: the others hold the same weights, or gather their shards for it.
    """
    hasher = hashlib.sha256()
    if runtime.rank == 0 or runtime.sharded:
        for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
            with runtime.gathered([parameter]):
                if runtime.rank == 0:
                    _hash_tensor(hasher, name, parameter.detach())
    return told_by_first(hasher.hexdigest, runtime)


def state_digest(state: Mapping[str, Tensor]) -> str:
    """sha256 over names, dtypes, shapes and bytes of a state: equal digests mean equal states."""
    hasher = hashlib.sha256()
    for name in sorted(state):
        _hash_tensor(hasher, name, state[name])
    return hasher.hexdigest()


def _hash_tensor(hasher: Any, name: str, tensor: Tensor) -> None:
    flat = tensor.detach().cpu().contiguous()
    hasher.update(f"{name} {flat.dtype} {tuple(flat.shape)}\n".encode())
    if flat.numel():
        hasher.update(flat.reshape(-1).view(torch.uint8).numpy())  # its bytes in place, without a copy


def pack_json(value: Any) -> Tensor:
    """A JSON value as a uint8 tensor, so that it can live in a state."""
    return torch.frombuffer(
        bytearray(json.dumps(value, ensure_ascii=False, sort_keys=True).encode()), dtype=torch.uint8
    )


def unpack_json(tensor: Tensor) -> Any:
    """The JSON value of a tensor made by `pack_json`.

    Raises:
        ValueError: It holds no JSON.
    """
    return parse_json(bytes(tensor.cpu().numpy().tobytes()))
