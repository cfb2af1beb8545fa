"""The changes of a weight editor as a part of the model that they change (see `elder.edited.model.Edits`).

Every input meets the changed weights, so nothing is routed, and a request carries nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, Generic

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from elder.editors.weights.deltas import Deltas, Key
from elder.errors import ModelError
from elder.mixture.prompt_end import NAMES


class WrittenEdits(Generic[Key]):
    """Changed weights of one model.

    Args:
        deltas: The changes; attached to the model already.
        maps: The maps of the model that are changed, by the keys of `deltas`.
        summary: One line about method and base, for people.
    """

    def __init__(self, deltas: Deltas[Key], maps: Mapping[Key, nn.Module], summary: str) -> None:
        self.deltas: Deltas[Key] = deltas
        self.maps: dict[Key, nn.Module] = dict(maps)
        self.summary, self.count = summary, 0

    def running(self) -> bool:
        """See `Edits.running`: nothing is to be begun."""
        return True

    def forward(self, call: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """See `Edits.forward`."""
        return call(**{name: value for name, value in kwargs.items() if name not in NAMES})

    def request(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        """See `Edits.request`."""
        return {name: value for name, value in kwargs.items() if name != "prompt_mask"}

    def batching(self, config: Any) -> None:
        """See `Edits.batching`: nothing is needed."""

    def disabled(self) -> AbstractContextManager[None]:
        """See `Edits.disabled`."""
        return self.deltas.disabled()

    def to(self, device: torch.device) -> None:
        """See `Edits.to`: changes are copied where they are needed."""

    def merged(self, model: nn.Module) -> Mapping[str, Tensor]:
        """See `Edits.merged`; sums are made in float32 and cast once to the format of the weights.

        Raises:
            ModelError: The model is sharded, or a changed matrix is shared with another part.
        """
        if any(hasattr(parameter, "ds_id") for parameter in model.parameters()):
            raise ModelError("a sharded model cannot be saved like this: use elder.export_merged or `elder export`")
        names = {id(module): name for name, module in model.named_modules()}
        state: dict[str, Tensor] = dict(model.state_dict())
        places: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            places.setdefault(id(parameter), []).append(name)
        for key, delta in self.deltas.of.items():
            module: Any = self.maps[key]
            name = f"{names[id(module)]}.weight"
            if not delta.sizes:
                continue
            others = [other for other in places[id(module.weight)] if other != name]
            if others:
                raise ModelError(f"{name} and {others[0]} are one matrix: edits of one would change the other")
            dense = delta.dense_on(module.weight.device)
            change = dense.T if isinstance(module, Conv1D) else dense
            state[name] = (module.weight.detach().float() + change.float()).to(module.weight.dtype).contiguous()
        return state
