"""Random, well-conditioned problems in float64, and the plain formulas that the solvers must agree with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elder.solvers.equality import equality_gain
from elder.solvers.key_covariance import KeyCovariance
from elder.solvers.ridge import Form, ridge_gain

M, D, N = 24, 10, 7
EXACT = 1e-8


@dataclass(frozen=True)
class Problem:
    """Keys K (m, n), residuals R (d, n), second moment C (m, m)."""

    k: Tensor
    r: Tensor
    c: Tensor


def make(seed: int = 0, m: int = M, d: int = D, n: int = N) -> Problem:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    text = normal(m, 4 * m)
    return Problem(normal(m, n), normal(d, n), text @ text.mT / text.shape[1])


def close(found: Tensor, wanted: Tensor, tolerance: float = EXACT) -> bool:
    """Relative difference in the Frobenius norm."""
    return float((found - wanted).norm()) <= tolerance * float(wanted.norm())


def ridge_update(
    k: Tensor, r: Tensor, prior: KeyCovariance | Tensor | None, ridge: float | Tensor, form: Form = "auto"
) -> Tensor:
    return r.double() @ ridge_gain(k, prior, ridge, form)


def equality_update(k: Tensor, r: Tensor, prior: KeyCovariance | Tensor | None) -> Tensor:
    return r.double() @ equality_gain(k, prior)


def plain_ridge(k: Tensor, r: Tensor, c: Tensor, ridge: float) -> Tensor:
    return r @ k.mT @ torch.linalg.inv(ridge * c + k @ k.mT)


def preserved(update: Tensor, c: Tensor) -> float:
    """tr(D C D^T): mean squared change of ordinary outputs."""
    return float(torch.trace(update @ c @ update.mT))
