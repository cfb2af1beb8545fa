"""The same objects on another device. Knows nothing of what they are for."""

from __future__ import annotations

import copy
from dataclasses import fields, is_dataclass, replace
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


def moved(value: T, device: torch.device) -> T:
    """A copy of plain objects, containers, tensors and modules with all tensors on a device; number formats stay."""
    found: Any = value
    if isinstance(value, Tensor):
        found = value.to(device)
    elif isinstance(value, nn.Module):
        found = copy.deepcopy(value).to(device)
    elif isinstance(value, torch.device):
        found = device
    elif isinstance(value, (list, tuple)):
        found = type(value)(moved(item, device) for item in value)
    elif isinstance(value, dict):
        found = {key: moved(item, device) for key, item in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        found = replace(value, **{f.name: moved(getattr(value, f.name), device) for f in fields(value)})
    elif hasattr(value, "__dict__") and type(value).__module__.startswith("elder."):
        found = copy.copy(value)
        found.__dict__ = {name: moved(item, device) for name, item in vars(value).items()}
    return found  # type: ignore[no-any-return]
