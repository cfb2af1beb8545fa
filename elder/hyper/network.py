"""The networks of MEND and MALMEN: they turn a token's factors (u, g) into what they should have been.

One network for each distinct shape of map; maps of one shape share it, each with its own scales and shifts
(MALMEN, arXiv 2311.04661, section 3; MEND, arXiv 2110.11309, section 3.2). Both are the identity on normalised
factors at first. Knows nothing of models or of how changes are put together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from elder.hyper.factors import Factors
from elder.hyper.maps import Sizes, shape_name
from elder.solvers.moments import RunningMoments

Style = Literal["mend", "malmen"]


class Block(nn.Module):
    """y + scale * max(0, y A B + b) + shift (MALMEN), or y + max(0, scale * (y A B + b) + shift) (MEND).

    Args:
        width: s.
        maps: Number of maps, each of which has its own scales and shifts.
        rank: Of A (s, rank) and B (rank, s).
        style: Which of the two.
        generator: Draws A; all else begins at values that make the block the identity.
    """

    def __init__(self, width: int, maps: int, rank: int, style: Style, generator: torch.Generator) -> None:
        super().__init__()
        self.style = style
        self.a = nn.Parameter(torch.randn(width, rank, generator=generator))
        self.b = nn.Parameter(torch.zeros(rank, width))
        self.bias = nn.Parameter(torch.zeros(width))
        self.scale = nn.Parameter(torch.ones(maps, width))
        self.shift = nn.Parameter(torch.zeros(maps, width))

    def forward(self, y: Tensor, index: int) -> Tensor:
        """(n, s) of the map with this number -> (n, s)."""
        h = y @ self.a @ self.b + self.bias
        # A clamp, not a ReLU: its gradient at exactly 0 is 1, without which B = 0 would never be trained.
        if self.style == "mend":
            return y + (self.scale[index] * h + self.shift[index]).clamp(min=0)
        return y + self.scale[index] * h.clamp(min=0) + self.shift[index]


class HyperNetwork(nn.Module):
    """Networks, normalisers and learnt scalars of a set of maps.

    Attributes:
        log_lr: (maps,) logarithm of each map's inner learning rate, so that it stays positive whatever a step does.
        log_ridge: (maps,) logarithm of each map's ridge; MALMEN only.
        normalisers: Mean and variance of [u ; g] over all that training saw, by shape. Empty ones pass factors as they
            are.

    Args:
        sizes: Name -> (in, out) of the maps.
        style: MEND's or MALMEN's.
        rank: Of the networks' maps, at most their width.
        blocks: Residual blocks; with none it is the identity.
        lr: Inner learning rate at first.
        seed: Of the initial values.
        ridge: At first.
    """

    def __init__(
        self, sizes: Sizes, style: Style, rank: int, blocks: int, lr: float, seed: int = 0, ridge: float = 1.0
    ) -> None:
        super().__init__()
        self.style = style
        self.shape_of = {name: shape_name(size) for name, size in sizes.items()}
        self._number = {name: i for i, name in enumerate(sizes)}
        self._index: dict[str, int] = {}
        generator = torch.Generator().manual_seed(seed)
        self.networks = nn.ModuleDict()
        self.normalisers: dict[str, RunningMoments] = {}
        for shape in dict.fromkeys(self.shape_of.values()):
            own = [name for name in sizes if self.shape_of[name] == shape]
            self._index |= {name: i for i, name in enumerate(own)}
            width = sum(sizes[own[0]])
            made = (Block(width, len(own), min(rank, width), style, generator) for _ in range(blocks))
            self.networks[shape] = nn.ModuleList(made)
            self.normalisers[shape] = RunningMoments.empty(width)
        self.log_lr = nn.Parameter(torch.full((len(sizes),), math.log(lr)))
        if style == "malmen":
            self.log_ridge = nn.Parameter(torch.full((len(sizes),), math.log(ridge)))

    def place(self, device: torch.device) -> HyperNetwork:
        """Networks and normalisers on a device."""
        self.to(device)
        for moments in self.normalisers.values():
            moments.mean, moments.squares = moments.mean.to(device), moments.squares.to(device)
        return self

    def observe(self, factors: Mapping[str, Factors]) -> None:
        """Let the normalisers see factors: done in training, never in validation or in use."""
        for name, own in factors.items():
            self.normalisers[self.shape_of[name]].add(own.joined)

    def forward(self, name: str, inputs: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Pseudo-inputs (n, d_k) and pseudo-gradients (n, d_v) from factors of one map."""
        moments = self.normalisers[self.shape_of[name]]
        y = torch.cat([inputs, gradients], dim=1)
        y = moments.normalise(y) if moments.count else y
        for block in self.networks[self.shape_of[name]]:  # type: ignore[attr-defined]
            y = block(y, self._index[name])
        return y[:, : inputs.shape[1]], y[:, inputs.shape[1] :]

    def lr(self, name: str) -> Tensor:
        """The inner learning rate of a map, a scalar with gradient."""
        return self.log_lr[self._number[name]].exp()

    def ridge(self, name: str) -> float:
        """The ridge of a map."""
        return float(self.log_ridge[self._number[name]].exp())

    def number(self, name: str) -> int:
        """The place of a map in `log_lr` and `log_ridge`."""
        return self._number[name]

    def full_state(self) -> dict[str, Tensor]:
        """Parameters and normalisers, on the CPU."""
        state = {f"network.{name}": p.detach().cpu().clone() for name, p in self.named_parameters()}
        for shape, moments in self.normalisers.items():
            state |= {f"normaliser.{shape}.{entry}": tensor for entry, tensor in moments.state_dict().items()}
        return state

    def take_state(self, state: Mapping[str, Tensor]) -> None:
        """Copy a state of the same names and shapes, which have been checked."""
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                parameter.copy_(state[f"network.{name}"])
        for shape, moments in self.normalisers.items():
            given = {entry: state[f"normaliser.{shape}.{entry}"] for entry in ("mean", "squares", "count")}
            taken = RunningMoments.from_state(given)
            device = moments.mean.device
            self.normalisers[shape] = RunningMoments(taken.mean.to(device), taken.squares.to(device), taken.count)
