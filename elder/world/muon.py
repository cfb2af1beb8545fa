"""Muon (Jordan et al. 2024): momentum, then the nearest orthogonal matrix, for matrices inside blocks.

It learns the facts of a world in about half the steps of AdamW. Matrices of one shape are
orthogonalised together in float32; torch's own Muon does them one by one in bfloat16, which is slow on
processors without it. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Of the quintic iteration; they push all singular values close to one in a few steps."""


class Muon:
    """Nesterov momentum with orthogonalised steps; no weight decay.

    Args:
        matrices: Parameters of two dimensions.
        momentum: Decay of the running sum of gradients.
        iterations: Of the quintic iteration.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], momentum: float = 0.95, iterations: int = 5) -> None:
        by_shape: dict[torch.Size, list[nn.Parameter]] = {}
        for matrix in matrices:
            by_shape.setdefault(matrix.shape, []).append(matrix)
        self.groups = list(by_shape.values())
        self.sums = [torch.zeros(len(group), *group[0].shape) for group in self.groups]
        self.momentum = momentum
        self.iterations = iterations

    @torch.no_grad()
    def step(self, lr: float) -> None:
        """Move every matrix along its orthogonalised momentum.

        Args:
            lr: Step length; scaled by sqrt(rows / columns) for matrices with more rows than columns.
        """
        for group, sums in zip(self.groups, self.sums, strict=True):
            gradients = torch.stack([matrix.grad for matrix in group if matrix.grad is not None])
            sums.lerp_(gradients, 1 - self.momentum)
            steps = orthogonalised(gradients.lerp_(sums, self.momentum), self.iterations)
            rows, columns = group[0].shape
            scale = -lr * max(1.0, rows / columns) ** 0.5
            for matrix, step in zip(group, steps, strict=True):
                matrix.add_(step, alpha=scale)


def orthogonalised(matrices: Tensor, iterations: int) -> Tensor:
    """Matrices with the same singular vectors and singular values near one.

    Args:
        matrices: (N, rows, columns) float.
        iterations: Of the quintic iteration.
    """
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (torch.linalg.matrix_norm(x, keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x.mT if tall else x
    return result
