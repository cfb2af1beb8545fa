"""UltraEdit (arXiv 2505.14679): factors normalised by lifelong statistics, then one ridge regression. No training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from elder.editors.base import Base
from elder.editors.factor_editor import Changes, FactorEditor
from elder.editors.hyper_options import UltraEditOptions
from elder.hyper.aggregate import ridge_factors, ultra_shifts
from elder.hyper.factors import Factors
from elder.hyper.maps import late_layers, shape_name
from elder.solvers.moments import RUNNING_STATE, RunningMoments


class UltraEditEditor(FactorEditor):
    """Statistics pool all maps of a shape; a batch counts in them before it is normalised by them."""

    method = "ultraedit"
    options: UltraEditOptions

    def __init__(self, base: Base, options: UltraEditOptions) -> None:
        super().__init__(base, options)
        device = base.runtime.device
        self.statistics = {shape_name(s): RunningMoments.empty(sum(s), device) for s in self.sizes.values()}
        self._next = self.statistics

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """Blocks 18 to 26 of GPT-J's 28, at this relative depth; none is published for LLaMA2-7B."""
        return late_layers(depth)

    def _changes(self, factors: Mapping[str, Factors]) -> Changes:
        self._next = {s: RunningMoments(m.mean, m.squares, m.count) for s, m in self.statistics.items()}
        for name, own in factors.items():
            self._next[shape_name(self.sizes[name])].add(own.joined)
        return {name: self._change(name, own) for name, own in factors.items()}

    def _change(self, name: str, factors: Factors) -> tuple[Tensor, Tensor]:
        moments, width = self._next[shape_name(self.sizes[name])], self.sizes[name][0]
        normal = moments.normalise(factors.joined)
        shifts = ultra_shifts(normal[:, :width], normal[:, width:], self.options.lr)
        return ridge_factors(factors.inputs, shifts, self.options.ridge)

    def _accept(self) -> None:
        self.statistics = self._next

    def _memory(self) -> dict[str, Tensor]:
        return {
            f"statistics.{shape}.{entry}": tensor
            for shape, moments in self.statistics.items()
            for entry, tensor in moments.state_dict().items()
        }

    def _recall(self, state: Mapping[str, Tensor], cursor: Mapping[str, Any]) -> None:
        device = self.base.runtime.device
        for shape in self.statistics:
            taken = RunningMoments.from_state({e: state[f"statistics.{shape}.{e}"] for e in RUNNING_STATE})
            self.statistics[shape] = RunningMoments(
                taken.mean.to(torch.device(device)), taken.squares.to(torch.device(device)), taken.count
            )
