"""Ridge updates batch after batch that remember every earlier key: recursive least squares."""

from __future__ import annotations

import torch
from torch import Tensor

from elder.errors import SolverError
from elder.solvers.key_covariance import KeyCovariance, as_prior, cholesky, columns
from elder.solvers.ridge import ridge_gain


class RecursiveRidge:
    """Holds Q = (ridge C + S)^-1, with S the sum of k k^T over all keys absorbed so far.

    A batch costs O(m^2 n), however many batches came before. For fixed keys and targets, and residuals measured on
    the current weights, any partition into batches adds up to the joint ridge solution: the batch size is a question
    of speed. MEMIT with a cache of keys is this with C; AlphaEdit is this with the identity, in the null space.

    Args:
        prior: C (m, m), a `KeyCovariance`, or None for the identity.
        ridge: Weight of C, greater than 0.
        width: m, needed only for the identity.

    Raises:
        SolverError: The ridge is not positive, or C is singular.
    """

    def __init__(self, prior: KeyCovariance | Tensor | None, ridge: float, width: int | None = None) -> None:
        if not ridge > 0:
            raise SolverError(f"the ridge must be greater than 0, found {ridge}")
        self._prior = prior if isinstance(prior, KeyCovariance) else KeyCovariance(prior, width)
        self.ridge = ridge
        if not self._prior.identity:
            _ = self._prior.factor  # a singular C is refused here, not at a later batch
        self._inverse: Tensor | None = None  # Q costs m^3: not made before there are keys to remember
        self._waiting: list[Tensor] = []

    def gain(self, keys: Tensor) -> Tensor:
        """K^T (ridge C + S + K K^T)^-1 (n, m), without remembering the keys."""
        k = columns(keys)
        if self._inverse is None and not self._waiting:
            return ridge_gain(k, self._prior, self.ridge)
        return _woodbury(self._remembering(k.device), k)[0]

    def absorb(self, keys: Tensor) -> None:
        """Remember keys (m, n): later updates leave their outputs in place."""
        self._waiting.append(columns(keys))

    def _remembering(self, device: torch.device) -> Tensor:
        """Q with all keys that were absorbed, in the order in which they came."""
        if self._inverse is None:
            self._inverse = self._prior.inverse() / self.ridge
        self._inverse = self._inverse.to(device)
        while self._waiting:
            gain, product = _woodbury(self._inverse, self._waiting[0].to(self._inverse))
            self._inverse -= product @ gain
            self._inverse = (self._inverse + self._inverse.mT) / 2  # rounding would slowly tilt it
            self._waiting.pop(0)
        return self._inverse


def _woodbury(inverse: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """(I + K^T Q K)^-1 K^T Q (n, m), and Q K (m, n)."""
    as_prior(KeyCovariance(None, len(inverse)), k.shape[0])
    product = inverse @ k
    system = k.mT @ product
    system = (system + system.mT) / 2 + torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    factor = cholesky(system, "the system of the facts", "raise the ridge")
    return torch.cholesky_solve(product.mT, factor), product
