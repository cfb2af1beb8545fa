"""AlphaEdit: least squares in the directions that ordinary text hardly uses."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from elder.base import Base
from elder.editors.weights.alphaedit_options import AlphaEditOptions
from elder.editors.weights.keys_memory import KeysMemory
from elder.editors.weights.locate import LocateEditor
from elder.errors import SolverError
from elder.solvers.nullspace import NullSpace
from elder.solvers.recursive import RecursiveRidge


class AlphaEditEditor(LocateEditor):
    """AlphaEdit (arXiv 2410.02355): R K^T P ((Kp Kp^T + K K^T) P + L2 I)^-1, solved in the basis of P.

    Kp are the keys of earlier batches as they are on the edited model, after each batch was written.
    """

    method = "alphaedit"
    options: AlphaEditOptions

    def __init__(self, base: Base, options: AlphaEditOptions) -> None:
        super().__init__(base, options)
        self._spaces: dict[int, NullSpace] = {}
        self._solvers: dict[int, RecursiveRidge] = {}
        self._keys = KeysMemory(self.layers, self.width)
        self._singular: set[int] = set()

    def space(self, layer: int) -> NullSpace:
        """The free directions of a block.

        Raises:
            SolverError: There are none.
        """
        if layer not in self._spaces:
            moment = self.statistics[layer].mean().to(self.base.runtime.device)
            found = NullSpace.of(moment, self.options.threshold, self.options.relative)
            if not found.rank:
                mean = float(moment.diagonal().mean())
                raise SolverError(
                    f"editor.threshold: no direction of block {layer} has a second moment below {found.threshold:.3g} "
                    f"(their mean is {mean:.3g}); raise it, or use editor.relative"
                )
            self._spaces[layer] = found
        return self._spaces[layer]

    def _update(self, layer: int, keys: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
        space = self.space(layer)
        if layer not in self._solvers:
            self._solvers[layer] = RecursiveRidge(None, self.options.ridge, space.rank)
            self._keys.replay(layer, lambda k: self._solvers[layer].absorb(space.reduce(k)))
        return residuals, space.lift(self._solvers[layer].gain(space.reduce(keys)))

    def _leverage(self, layer: int, keys: Tensor) -> Tensor | None:
        """As the others have it, where C has an inverse; AlphaEdit does not need one."""
        if layer in self._singular:
            return None
        try:
            return super()._leverage(layer, keys)
        except SolverError:
            self._singular.add(layer)
            return None

    def _remember(self, keys: Mapping[int, Tensor]) -> None:
        for layer, own in keys.items():
            self._keys.hold(layer, own)
        for layer, held in self._keys.commit().items():
            if layer in self._solvers:  # where updates are solved, on rank 0
                self._solvers[layer].absorb(self.space(layer).reduce(held))

    def _memory(self) -> dict[str, Tensor]:
        return self._keys.state_dict()

    def _load_memory(self, state: Mapping[str, Tensor]) -> None:
        self._keys.load(state, {layer: self._seen["sizes"][str(layer)] for layer in self.layers})
        self._solvers.clear()
