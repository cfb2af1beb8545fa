"""Keys of earlier batches, kept as they were, so that the state of a solver can be restored to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from elder.errors import AdapterError, SolverError


class KeysMemory:
    """Batches of keys of several blocks, in order.

    Args:
        layers: The blocks.
        width: m.
    """

    def __init__(self, layers: Sequence[int], width: int) -> None:
        self._batches: dict[int, list[Tensor]] = {layer: [] for layer in layers}
        self._held: dict[int, Tensor] = {}
        self._width = width

    def hold(self, layer: int, keys: Tensor) -> None:
        """Note the keys (m, n) of a batch that is not written yet.

        Raises:
            SolverError: They are not finite.
        """
        if not bool(keys.isfinite().all()):
            raise SolverError(f"block {layer}: the keys of these facts are not finite on the edited model")
        self._held[layer] = keys.detach().float()

    def commit(self) -> dict[int, Tensor]:
        """The batch is written: its keys are remembered; returns them."""
        held, self._held = self._held, {}
        for layer, keys in held.items():
            self._batches[layer].append(keys)
        return held

    def replay(self, layer: int, absorb: Callable[[Tensor], None]) -> None:
        """Hand all batches of a block, in order, to a new solver."""
        for keys in self._batches[layer]:
            absorb(keys)

    def state_dict(self) -> dict[str, Tensor]:
        """`memory.LAYER` (N, m) float32, on the CPU."""
        return {
            f"memory.{layer}": torch.cat([k.T.cpu() for k in batches]) if batches else torch.zeros(0, self._width)
            for layer, batches in self._batches.items()
        }

    def load(self, state: Mapping[str, Tensor], sizes: Mapping[int, Sequence[int]]) -> None:
        """Take keys over, cut into the batches in which they came.

        Raises:
            AdapterError: Keys and sizes do not go together.
        """
        fresh = {}
        for layer in self._batches:
            rows = state[f"memory.{layer}"]
            if len(rows) != sum(sizes[layer]):
                raise AdapterError(f"the keys of block {layer} do not add up to the batches of the cursor")
            fresh[layer] = [part.T.contiguous() for part in torch.split(rows, list(sizes[layer]))] if len(rows) else []
        self._batches, self._held = fresh, {}
