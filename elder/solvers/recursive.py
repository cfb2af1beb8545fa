"""Ridge updates batch after batch that remember every earlier key: recursive least squares."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from elder.errors import SolverError
from elder.solvers.key_covariance import KeyCovariance, as_prior, cholesky, columns
from elder.solvers.ridge import ridge_gain

STATE = ("inverse", "absorbed")


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
        if prior is None and width is None:
            raise SolverError("the prior is the identity, but nobody said of which width")
        self._prior = prior if isinstance(prior, KeyCovariance) else KeyCovariance(prior, width)
        self.width, self.ridge = self._prior.width, ridge
        if not self._prior.identity:
            _ = self._prior.factor  # a singular C is refused here, not at a later batch
        self._inverse: Tensor | None = None  # Q costs m^3: not made before there are keys to remember
        self._waiting: list[Tensor] = []
        self._absorbed = 0

    @property
    def absorbed(self) -> int:
        """Number of keys remembered."""
        return self._absorbed

    def solve(self, keys: Tensor, residuals: Tensor) -> Tensor:
        """D = R K^T (ridge C + S + K K^T)^-1 (d, m), without remembering the keys."""
        k, r = columns(keys, residuals)
        return (r @ self._gain(k)[0]).to(residuals.dtype)

    def gain(self, keys: Tensor) -> Tensor:
        """K^T (ridge C + S + K K^T)^-1 (n, m): `solve` is R times this."""
        return self._gain(columns(keys, keys)[0])[0]

    def absorb(self, keys: Tensor) -> None:
        """Remember keys (m, n): later updates leave their outputs in place."""
        k = columns(keys, keys)[0]
        self._waiting.append(k)
        self._absorbed += k.shape[1]

    def update(self, keys: Tensor, residuals: Tensor) -> Tensor:
        """`solve`, then `absorb`, at the price of one."""
        k, r = columns(keys, residuals)
        gain, product = self._gain(k)
        if product is None:
            self.absorb(k)
        else:
            self._take(gain, product)
            self._absorbed += k.shape[1]
        return (r @ gain).to(residuals.dtype)

    def state_dict(self) -> dict[str, Tensor]:
        """Q and the number of keys, on the CPU."""
        return {"inverse": self._remembering().cpu().clone(), "absorbed": torch.tensor(self._absorbed)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state of the same width.

        Raises:
            SolverError: It is of another width or not such a state.
        """
        if set(state) != set(STATE) or tuple(state["inverse"].shape) != (self.width, self.width):
            raise SolverError(f"expected the state of a solver of width {self.width} with {', '.join(STATE)}")
        self._inverse, self._waiting = state["inverse"].to(self._prior.device, torch.float64).clone(), []
        self._absorbed = int(state["absorbed"])

    def _gain(self, k: Tensor) -> tuple[Tensor, Tensor | None]:
        """(I + K^T Q K)^-1 K^T Q (n, m); and Q K (m, n), or None where Q has not been needed."""
        if self._inverse is None and not self._waiting:
            return ridge_gain(k, self._prior, self.ridge), None
        return _woodbury(self._remembering(k.device), k)

    def _remembering(self, device: torch.device | None = None) -> Tensor:
        """Q with all that was absorbed, in the order in which it came."""
        if self._inverse is None:
            self._inverse = self._prior.inverse() / self.ridge
        if device is not None:
            self._inverse = self._inverse.to(device)
        while self._waiting:
            self._take(*_woodbury(self._inverse, self._waiting[0].to(self._inverse)))
            self._waiting.pop(0)
        return self._inverse

    def _take(self, gain: Tensor, product: Tensor) -> None:
        assert self._inverse is not None
        self._inverse -= product @ gain
        self._inverse = (self._inverse + self._inverse.mT) / 2  # rounding would slowly tilt it


def _woodbury(inverse: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """(I + K^T Q K)^-1 K^T Q (n, m), and Q K (m, n)."""
    as_prior(KeyCovariance(None, len(inverse)), k.shape[0])
    product = inverse @ k
    system = k.mT @ product
    system = (system + system.mT) / 2 + torch.eye(k.shape[1], dtype=k.dtype, device=k.device)
    factor = cholesky(system, "the system of the facts", "raise the ridge")
    return torch.cholesky_solve(product.mT, factor), product
