"""The second moment of ordinary keys, which updates preserve, factored once. Knows nothing of facts."""

from __future__ import annotations

import torch
from torch import Tensor

from elder.errors import SolverError

ASYMMETRY = 1e-4  # largest relative asymmetry that can be rounding of a float32 sum


class KeyCovariance:
    """A second moment C = E[k k^T], or the identity, with its Cholesky factor C = L L^T in float64.

    Factoring costs m^3/3 once; every solve after it costs m^2 for each column.

    Args:
        moment: (m, m), symmetric, positive definite; None for the identity.
        width: m, needed only for the identity.
        jitter: Adds `jitter * trace(C)/m` to the diagonal, for statistics of few tokens (arXiv 2506.04226
            adds a small multiple of the identity for Llama-2-7B).

    Raises:
        SolverError: Not square, not symmetric, not finite, or not positive definite (at the first solve).
    """

    def __init__(self, moment: Tensor | None, width: int | None = None, jitter: float = 0.0) -> None:
        if moment is None:
            if width is None:
                raise SolverError("the prior is the identity, but its width is not given")
            self.width, self.moment = width, None
        else:
            self.width, self.moment = moment.shape[0], _checked(moment, jitter)
        self._factor: Tensor | None = None

    @property
    def identity(self) -> bool:
        """Whether C is the identity, so that nothing needs to be factored."""
        return self.moment is None

    @property
    def factored(self) -> bool:
        """Whether solving is cheap from here on."""
        return self.identity or self._factor is not None

    @property
    def factor(self) -> Tensor:
        """L: (m, m), lower triangular.

        Raises:
            SolverError: C is singular or indefinite.
        """
        if self._factor is None:
            self._factor = cholesky(self.dense(), "the second moment of the keys", SINGULAR_PRIOR)
        return self._factor

    def dense(self) -> Tensor:
        """C: (m, m)."""
        return torch.eye(self.width, dtype=torch.float64) if self.moment is None else self.moment

    def whiten(self, keys: Tensor) -> Tensor:
        """L^-1 K: (m, n), whose inner products are those of K under C^-1."""
        return keys if self.identity else torch.linalg.solve_triangular(self.factor, keys, upper=False)

    def unwhiten(self, white: Tensor) -> Tensor:
        """L^-T Y: (m, n); `unwhiten(whiten(K))` is C^-1 K."""
        return white if self.identity else torch.linalg.solve_triangular(self.factor.mT, white, upper=True)

    def inverse(self) -> Tensor:
        """C^-1: (m, m)."""
        if self.identity:
            return self.dense()
        return torch.cholesky_inverse(self.factor)


SINGULAR_PRIOR = "take statistics over more tokens than the layer is wide, or give a jitter (editor.jitter)"


def as_prior(prior: KeyCovariance | Tensor | None, width: int) -> KeyCovariance:
    """A `KeyCovariance` of the given width.

    Raises:
        SolverError: It is of another width.
    """
    found = prior if isinstance(prior, KeyCovariance) else KeyCovariance(prior, width)
    if found.width != width:
        raise SolverError(
            f"the statistics are of width {found.width}, the keys of width {width}: they belong to another layer or "
            "another model"
        )
    return found


def cholesky(matrix: Tensor, what: str, remedy: str) -> Tensor:
    """The lower Cholesky factor of a symmetric positive definite matrix.

    Raises:
        SolverError: It is not positive definite; the message names `what` it is and the `remedy`.
    """
    factor: Tensor
    factor, info = torch.linalg.cholesky_ex(matrix)
    if int(info):
        raise SolverError(f"{what} is singular (its leading minor {int(info)} of {matrix.shape[0]}): {remedy}")
    return factor


def columns(keys: Tensor) -> Tensor:
    """Keys (m, n) in float64, one column a fact.

    Raises:
        SolverError: Not a matrix, or not finite.
    """
    if keys.ndim != 2:
        raise SolverError(f"expected keys (m, n), found {tuple(keys.shape)}")
    wide = keys.to(torch.float64)
    if not bool(wide.isfinite().all()):
        raise SolverError("the keys are not finite: the model produced NaN or infinity for these facts")
    return wide


def _checked(moment: Tensor, jitter: float) -> Tensor:
    if moment.ndim != 2 or moment.shape[0] != moment.shape[1]:
        raise SolverError(f"a second moment is square, found {tuple(moment.shape)}")
    matrix = moment.to(torch.float64)
    if not bool(matrix.isfinite().all()):
        raise SolverError("the second moment of the keys is not finite; take the statistics again")
    size = float(matrix.abs().max())
    if float((matrix - matrix.mT).abs().max()) > ASYMMETRY * size:
        raise SolverError("the second moment of the keys is not symmetric; it is no sum of k k^T")
    matrix = (matrix + matrix.mT) / 2
    if jitter:
        matrix = matrix + jitter * matrix.diagonal().mean() * torch.eye(len(matrix), dtype=torch.float64).to(matrix)
    return matrix
