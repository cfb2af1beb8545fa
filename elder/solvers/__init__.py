"""The one ridge solver behind every method that writes weights in closed form, and behind the meta-gradient.

W: (d, m) is a linear map, K: (m, n) the keys of n facts (its inputs), R: (d, n) what its outputs lack,
C: (m, m) the second moment of ordinary keys. Every update D: (d, m) is one of

    ridge_update      R K^T (ridge C + K K^T)^-1          MEMIT, EMMET with its regulariser, MALMEN, UltraEdit
    equality_update   R (K^T C^-1 K)^-1 K^T C^-1          ROME, EMMET
    RecursiveRidge    ridge_update over batch after batch, earlier keys remembered: MEMIT with cache, AlphaEdit
    NullSpace         the directions that ordinary keys hardly use: AlphaEdit

All of it in float64, by Cholesky factors. Knows nothing of models, editors or where the keys come from.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elder.solvers.equality import equality_update as equality_update
    from elder.solvers.key_covariance import KeyCovariance as KeyCovariance
    from elder.solvers.nullspace import NullSpace as NullSpace
    from elder.solvers.nullspace import nullspace_projector as nullspace_projector
    from elder.solvers.recursive import RecursiveRidge as RecursiveRidge
    from elder.solvers.ridge import ridge_update as ridge_update

_HOMES = {
    "NullSpace": "elder.solvers.nullspace",
    "KeyCovariance": "elder.solvers.key_covariance",
    "RecursiveRidge": "elder.solvers.recursive",
    "equality_update": "elder.solvers.equality",
    "nullspace_projector": "elder.solvers.nullspace",
    "ridge_update": "elder.solvers.ridge",
}

__all__ = ["KeyCovariance", "NullSpace", "RecursiveRidge", "equality_update", "nullspace_projector", "ridge_update"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'elder.solvers' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
