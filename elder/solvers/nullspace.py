"""The directions of key space that ordinary text hardly uses: AlphaEdit writes only there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from elder.errors import SolverError
from elder.solvers.key_covariance import KeyCovariance


@dataclass(frozen=True)
class NullSpace:
    """Eigenvectors of C with an eigenvalue below a threshold.

    Not an exact null space: an update D in it changes ordinary outputs by at most
    tr(D C D^T) <= threshold ||D||_F^2 on average.

    Attributes:
        basis: U (m, r), orthonormal columns.
        threshold: In the units of C, as it was applied.
    """

    basis: Tensor
    threshold: float

    @classmethod
    def of(cls, moment: Tensor, threshold: float, relative: bool = False) -> NullSpace:
        """Decompose a second moment.

        Args:
            moment: C (m, m).
            threshold: Keep directions with an eigenvalue below it (AlphaEdit, arXiv 2410.02355: 2e-2 in its code).
            relative: Measure it in units of trace(C)/m, so that it means the same in every layer and model.

        Raises:
            SolverError: C is not a second moment, or the threshold is negative.
        """
        if threshold < 0:
            raise SolverError(f"the null-space threshold cannot be negative, found {threshold}")
        matrix = KeyCovariance(moment).dense()
        limit = threshold * float(matrix.diagonal().mean()) if relative else threshold
        values, vectors = torch.linalg.eigh(matrix)
        return cls(vectors[:, values.clamp(min=0) < limit].contiguous(), limit)

    @property
    def rank(self) -> int:
        """r, the number of directions."""
        return int(self.basis.shape[1])

    @property
    def projector(self) -> Tensor:
        """P = U U^T (m, m), symmetric and idempotent."""
        product = self.basis @ self.basis.mT
        return (product + product.mT) / 2

    def reduce(self, keys: Tensor) -> Tensor:
        """U^T K (r, n): the keys as they look in the null space. Solving there is symmetric and smaller."""
        return self.basis.mT @ keys.to(self.basis)

    def lift(self, update: Tensor) -> Tensor:
        """D_r U^T (d, m): an update of the reduced keys as an update of the whole map; D P = D."""
        return update @ self.basis.mT.to(update.dtype)
