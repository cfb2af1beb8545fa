"""UltraEdit (arXiv 2505.14679): factors normalised by lifelong statistics, then one ridge regression. No training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from elder.base import Base
from elder.editors.gradient.factor_editor import Changes, FactorEditor
from elder.editors.gradient.ultraedit_options import UltraEditOptions
from elder.editors.weights.written import rising
from elder.hyper.aggregate import ridge_factors, ultra_shifts
from elder.hyper.factors import Factors
from elder.hyper.maps import late_layers, shape_name
from elder.runtime import tensors_by_first
from elder.solvers.moments import RUNNING_STATE, RunningMoments


class UltraEditEditor(FactorEditor):
    """Statistics pool all maps of a shape; a batch counts in them before it is normalised by them.

    What they were after every batch is kept, so that a stream can be taken back to any of them.
    """

    method = "ultraedit"
    options: UltraEditOptions

    def __init__(self, base: Base, options: UltraEditOptions) -> None:
        super().__init__(base, options)
        self._width = {shape_name(size): sum(size) for size in self.sizes.values()}
        self._after: dict[str, list[RunningMoments]] = {shape: [] for shape in self._width}
        self._next = self.statistics

    @property
    def statistics(self) -> dict[str, RunningMoments]:
        """Shape of maps -> mean and variance of [u ; g] over all batches so far."""
        device = self.base.runtime.device
        return {s: m[-1] if m else RunningMoments.empty(self._width[s], device) for s, m in self._after.items()}

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """Blocks 18 to 26 of GPT-J's 28, at this relative depth; none is published for LLaMA2-7B."""
        return late_layers(depth)

    def _changes(self, factors: Mapping[str, Factors]) -> Changes:
        self._next = {s: RunningMoments(m.mean, m.squares, m.count) for s, m in self.statistics.items()}
        for name, own in factors.items():
            self._next[shape_name(self.sizes[name])].add(own.joined)
        agreed = tensors_by_first(
            lambda: [t for m in self._next.values() for t in (m.mean, m.squares)], self.base.runtime
        )
        for moments, mean, squares in zip(self._next.values(), agreed[::2], agreed[1::2], strict=True):
            moments.mean, moments.squares = mean, squares
        return {name: self._change(name, own) for name, own in factors.items()}

    def _change(self, name: str, factors: Factors) -> tuple[Tensor, Tensor]:
        moments, width = self._next[shape_name(self.sizes[name])], self.sizes[name][0]
        normal = moments.normalise(factors.joined)
        shifts = ultra_shifts(normal[:, :width], normal[:, width:], self.options.lr)
        return ridge_factors(factors.inputs, shifts, self.options.ridge)

    def _written(self) -> None:
        super()._written()
        for shape, moments in self._next.items():
            self._after[shape].append(moments)

    def _memory(self) -> dict[str, Tensor]:
        """`statistics.SHAPE.mean` (batches, s) and so on: what they were after every batch."""
        found = {}
        for shape, after in self._after.items():
            states = [moments.state_dict() for moments in after]
            empty = RunningMoments.empty(self._width[shape]).state_dict()
            for entry in RUNNING_STATE:
                rows = [state[entry] for state in states]
                found[f"statistics.{shape}.{entry}"] = (
                    torch.stack(rows) if rows else empty[entry].expand(1, *empty[entry].shape)[:0]
                )
        return found

    def _contradictions(self, state: Mapping[str, Tensor], cursor: Mapping[str, Any]) -> list[str]:
        wrong = super()._contradictions(state, cursor)
        for shape in self._width:
            mean, squares, count = (state[f"statistics.{shape}.{entry}"] for entry in RUNNING_STATE)
            if not len(mean) == len(squares) == len(count) == cursor["batches"]:
                wrong.append(f"'statistics.{shape}' must have been noted after each of {cursor['batches']} batches")
            elif not rising(count.tolist()) or bool((squares < 0).any()):
                wrong.append(f"'statistics.{shape}' are no statistics of a growing stream")
        return wrong

    def _load_memory(self, state: Mapping[str, Tensor]) -> None:
        device = torch.device(self.base.runtime.device)
        for shape in self._width:
            mean, squares, count = (state[f"statistics.{shape}.{entry}"] for entry in RUNNING_STATE)
            self._after[shape] = [
                RunningMoments(m.to(device, copy=True), s.to(device, copy=True), int(c))
                for m, s, c in zip(mean, squares, count, strict=True)
            ]
