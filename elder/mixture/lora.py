"""A mixture of low-rank maps for one linear layer, computed as one pair of matrices.

N maps of rank r are stored side by side: A is (in, N*r), B is (N*r, out), and a gate scales the N*r inner columns of
each row. This equals the sum of N gated maps (ELDER, eq. 4) at the cost of one map of rank N*r. Knows nothing of
routing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn


class LowRankMixture(nn.Module):
    """N low-rank maps A_i B_i of one layer: delta = sum_i g_i * scale * x A_i B_i.

    Args:
        d_in: Width of the layer's input.
        d_out: Width of its output.
        experts: Number of maps (N).
        rank: Rank of each (r).
        scale: alpha / rank.
        bound: A is uniform in ±bound; B is zero, so that a fresh mixture changes nothing.
        generator: Source of randomness for A.
    """

    def __init__(
        self, d_in: int, d_out: int, experts: int, rank: int, scale: float, bound: float, generator: torch.Generator
    ) -> None:
        super().__init__()
        self.experts, self.rank, self.scale = experts, rank, scale
        self.a = nn.Parameter((torch.rand(d_in, experts * rank, generator=generator) * 2 - 1) * bound)
        self.b = nn.Parameter(torch.zeros(experts * rank, d_out))

    def forward(self, x: Tensor, gate: Tensor) -> Tensor:
        """The correction to be added to the layer's output.

        Args:
            x: (M, in) or (B, T, in) input of the layer, any float dtype.
            gate: Weight of each map for each token, (M, N) or (B, T, N), or for each row of (B, T, in), (B, N).

        Returns:
            (M, out) or (B, T, out) in the dtype of x.
        """
        columns = self.columns(gate, x.dtype)
        return self.mixed(x, columns[:, None, :] if gate.dim() < x.dim() else columns)

    def columns(self, gate: Tensor, dtype: torch.dtype) -> Tensor:
        """Factors of the N*r inner columns of each token: (..., N) -> (..., N*r)."""
        return (gate * self.scale).to(dtype).repeat_interleave(self.rank, dim=-1)

    def mixed(self, x: Tensor, columns: Tensor) -> Tensor:
        """The correction for inputs (..., in) whose inner columns are scaled by (..., N*r)."""
        return ((x @ self.a.to(x.dtype)) * columns) @ self.b.to(x.dtype)


def initial_bound(init: str, d_in: int, rank: int) -> float:
    """Half-width of the uniform distribution of A.

    `reference`: 1/sqrt(rank), what Kaiming initialisation gives on the reference code's (in, rank) tensor;
    `standard`: 1/sqrt(in), as in LoRA.
    """
    return 1 / math.sqrt(rank if init == "reference" else d_in)
