"""From tokens to one change of a map: MEND adds up, MALMEN and UltraEdit fit all shifts by one ridge regression.

n tokens, U (n, d_k) inputs of the map, uh and gh pseudo-inputs (n, d_k) and pseudo-gradients (n, d_v). A change is
given by low-rank factors, left (d_v, r) and right (r, d_k). The algebra is `elder.solvers`'.
"""

from __future__ import annotations

import torch
from torch import Tensor

from elder.solvers.ridge import ridge_gain


def malmen_shifts(inputs: Tensor, pseudo_inputs: Tensor, pseudo_gradients: Tensor, lr: Tensor | float) -> Tensor:
    """T (n, d_v): t = -lr (u . uh) gh, by how much each token's output would move if it were edited alone."""
    return -lr * (inputs * pseudo_inputs).sum(dim=1, keepdim=True) * pseudo_gradients


def ultra_shifts(pseudo_inputs: Tensor, pseudo_gradients: Tensor, lr: float) -> Tensor:
    """T (n, d_v): t = -lr ||uh||^2 gh (UltraEdit, arXiv 2505.14679, eq. 6)."""
    return -lr * pseudo_inputs.square().sum(dim=1, keepdim=True) * pseudo_gradients


def ridge_factors(inputs: Tensor, shifts: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Factors of S^T, S = (U^T U + ridge I)^-1 U^T T (MALMEN, arXiv 2311.04661, eq. 4); exact inputs, not pseudo."""
    return shifts.mT, ridge_gain(inputs.mT, None, ridge)


def sum_factors(pseudo_inputs: Tensor, pseudo_gradients: Tensor, lr: Tensor | float) -> tuple[Tensor, Tensor]:
    """Factors of -lr sum_j gh_j uh_j^T: MEND's change, in which opposite shifts cancel."""
    return -lr * pseudo_gradients.mT, pseudo_inputs


def slim(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with no more than min(d_v, d_k) columns: many tokens need no more room than the matrix."""
    d, n, m = left.shape[0], left.shape[1], right.shape[1]
    if n <= min(d, m):
        return left, right
    dense = left.to(right) @ right
    if d <= m:
        return torch.eye(d, dtype=dense.dtype, device=dense.device), dense
    return dense, torch.eye(m, dtype=dense.dtype, device=dense.device)
