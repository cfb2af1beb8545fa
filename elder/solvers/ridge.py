"""Least squares with a preserved prior: the update of MEMIT, and with the identity that of MALMEN and UltraEdit."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from elder.errors import SolverError
from elder.solvers.key_covariance import KeyCovariance, as_prior, cholesky, columns

Form = Literal["auto", "primal", "dual"]


def ridge_gain(
    keys: Tensor, prior: KeyCovariance | Tensor | None, ridge: float | Tensor, form: Form = "auto"
) -> Tensor:
    """K^T (ridge C + K K^T)^-1 (n, m) in float64: R times it is the least ||R - D K||^2 + ridge tr(D C D^T).

    MEMIT (arXiv 2210.07229, eq. 14) with `ridge` = its lambda. EMMET with its regulariser a and weight w is this
    with ridge = w a (push-through identity). Differentiable in K and the ridge, so that meta-training can go
    through it (MALMEN).

    Args:
        keys: K (m, n), one column a fact.
        prior: C (m, m), or a `KeyCovariance` that has been factored before, or None for the identity.
        ridge: Weight of preservation, greater than 0.
        form: `primal` solves m x m, `dual` n x n with C^-1; `auto` takes the cheaper one. They are equal.

    Raises:
        SolverError: Shapes do not fit, something is not finite, the ridge is not positive, or the system is singular.
    """
    k = columns(keys)
    if not float(ridge) > 0:
        raise SolverError(f"the ridge must be greater than 0, found {float(ridge)}; at 0 use equality_gain")
    c = as_prior(prior, k.shape[0])
    chosen = _cheaper(c, *k.shape) if form == "auto" else form
    if chosen == "dual":
        try:
            return _dual(k, c, ridge)
        except SolverError:
            if form == "dual":
                raise  # C alone is singular; with the facts added it may not be
    return _primal(k, c, ridge)


def _cheaper(prior: KeyCovariance, m: int, n: int) -> Form:
    """Compare multiplications; what both forms share is left out."""
    primal = 3 * m * m * n + m**3 / 3
    dual = m * n * n + n**3 / 3
    if not prior.identity:
        dual += 2 * m * m * n + (0 if prior.factored else m**3 / 3)
    return "dual" if dual < primal else "primal"


def _dual(k: Tensor, prior: KeyCovariance, ridge: float | Tensor) -> Tensor:
    white = prior.whiten(k)
    gram = white.mT @ white
    system = gram + ridge * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    factor = cholesky(system, "the system of the facts", "raise the ridge")
    return torch.cholesky_solve(prior.unwhiten(white).mT, factor)


def _primal(k: Tensor, prior: KeyCovariance, ridge: float | Tensor) -> Tensor:
    system = k @ k.mT + ridge * prior.dense().to(k.device)
    factor = cholesky(system, "the system of prior and facts", "raise the ridge, or take statistics over more tokens")
    return torch.cholesky_solve(k, factor).mT
