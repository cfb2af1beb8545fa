"""MEMIT: a batch of facts by least squares, spread over several blocks."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from elder.base import Base
from elder.editors.weights.keys_memory import KeysMemory
from elder.editors.weights.locate import LocateEditor
from elder.editors.weights.memit_options import MemitOptions
from elder.solvers.recursive import RecursiveRidge
from elder.solvers.ridge import ridge_gain


class MemitEditor(LocateEditor):
    """MEMIT (arXiv 2210.07229, algorithm 1), with or without a cache of earlier keys.

    With the cache the update of a batch is R K^T (lambda C + Kp Kp^T + K K^T)^-1, Kp being all earlier keys; without
    it, Kp is left out, as published.
    """

    method = "memit"
    options: MemitOptions

    def __init__(self, base: Base, options: MemitOptions) -> None:
        super().__init__(base, options)
        self._solvers: dict[int, RecursiveRidge] = {}
        self._keys = KeysMemory(self.layers, self.width)

    def _update(self, layer: int, keys: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
        if not self.options.cache:
            return residuals, ridge_gain(keys, self.prior(layer), self.options.ridge)
        if layer not in self._solvers:
            self._solvers[layer] = RecursiveRidge(self.prior(layer), self.options.ridge)
            self._keys.replay(layer, self._solvers[layer].absorb)
        return residuals, self._solvers[layer].gain(keys)

    def _solved(self, layer: int, keys: Tensor) -> None:
        if self.options.cache:
            self._keys.hold(layer, keys)

    def _remember(self, keys: Mapping[int, Tensor]) -> None:
        """The keys that were solved for, not those after writing: the recursion is then the joint solution."""
        if self.options.cache:
            for layer, held in self._keys.commit().items():
                if layer in self._solvers:  # where updates are solved, on rank 0
                    self._solvers[layer].absorb(held)

    def _memory(self) -> dict[str, Tensor]:
        return self._keys.state_dict() if self.options.cache else {}

    def _load_memory(self, state: Mapping[str, Tensor]) -> None:
        if self.options.cache:
            self._keys.load(state, {layer: self._seen["sizes"][str(layer)] for layer in self.layers})
            self._solvers.clear()
