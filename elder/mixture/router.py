"""The routers of all edited layers: one query decides which low-rank maps each layer uses (ELDER, section 3.2).

All layers read the same query, so their routers are one matrix product. Knows nothing of text or training.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Router(nn.Module):
    """p_l = softmax(W_l q + b_l) for every edited layer l.

    Args:
        width: Size of the query (D).
        layers: Number of edited layers (L).
        experts: Maps in each layer (N).
        bias: The reference code has one, the paper's formula has none.
        generator: Source of randomness.
    """

    def __init__(self, width: int, layers: int, experts: int, bias: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.layers, self.experts = layers, experts
        bound = 1 / math.sqrt(width)
        self.weight = nn.Parameter((torch.rand(layers * experts, width, generator=generator) * 2 - 1) * bound)
        drawn = (torch.rand(layers * experts, generator=generator) * 2 - 1) * bound
        self.bias = nn.Parameter(drawn) if bias else None

    def forward(self, query: Tensor) -> Tensor:
        """Log-probabilities of every map.

        Args:
            query: (B, D).

        Returns:
            (B, L, N), float32; `exp` sums to 1 over N.
        """
        scores = F.linear(query.float(), self.weight, self.bias)
        return F.log_softmax(scores.view(-1, self.layers, self.experts), dim=-1)


def keep_top(log_p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest probabilities as they are (not renormalised), and which they were.

    Args:
        log_p: (..., N).
        k: How many to keep.

    Returns:
        weights (..., N) with zeros elsewhere, and the choice (..., N) as bool with exactly k ones.
    """
    chosen = torch.zeros_like(log_p, dtype=torch.bool)
    chosen.scatter_(-1, log_p.topk(k, dim=-1).indices, True)
    return log_p.exp() * chosen, chosen


def guided_loss(log_p: Tensor, allocation: Tensor) -> Tensor:
    """The guided loss of each row: -sum over layers and allocated maps of log p (ELDER, eq. 6).

    Its floor is L*k*ln(k), its value for an undecided router L*k*ln(N).

    Args:
        log_p: (B, L, N).
        allocation: (B, L, N) bool, k ones a layer.

    Returns:
        (B,).
    """
    return -(log_p * allocation).sum(dim=(-2, -1))
