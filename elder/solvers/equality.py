"""The update that reaches every target exactly and moves ordinary outputs least: ROME and EMMET."""

from __future__ import annotations

import torch
from torch import Tensor

from elder.errors import SolverError
from elder.solvers.key_covariance import KeyCovariance, as_prior, columns

DEPENDENT = 1e-12  # smallest eigenvalue of the keys' correlation under C^-1 that still counts as independent
ALIKE = 1 - 1e-9
NAMED = 5  # how many pairs an error names


def equality_gain(keys: Tensor, prior: KeyCovariance | Tensor | None) -> Tensor:
    """(K^T C^-1 K)^-1 K^T C^-1 (n, m) in float64: R times it is the D with D K = R of least tr(D C D^T).

    EMMET without regulariser (arXiv 2403.14236, eq. 7); for one key ROME (arXiv 2202.05262, eq. 2), its rank-one
    update. Does not depend on the scale of C.

    Args:
        keys: K (m, n), linearly independent columns.
        prior: C (m, m), or a factored `KeyCovariance`, or None for the identity.

    Raises:
        SolverError: More keys than dimensions, or keys that depend on each other: facts that cannot all hold exactly.
    """
    k = columns(keys)
    m, n = k.shape
    if n > m:
        raise SolverError(f"{n} facts cannot hold exactly in a layer of width {m}: use a ridge, or smaller batches")
    c = as_prior(prior, m)
    white = c.whiten(k)
    gram = white.mT @ white
    scale = gram.diagonal().rsqrt()
    if not bool(scale.isfinite().all()):
        silent = int(scale.isfinite().int().argmin())
        raise SolverError(f"the key of fact {silent} is zero: nothing can be stored at it")
    correlation = gram * scale[:, None] * scale
    _check_independent(correlation)
    # The correlation is far better conditioned than the Gram matrix when keys differ in length.
    factor = torch.linalg.cholesky(correlation)
    solved: Tensor = torch.cholesky_solve(scale[:, None] * c.unwhiten(white).mT, factor)
    return scale[:, None] * solved


def _check_independent(correlation: Tensor) -> None:
    lowest = float(torch.linalg.eigvalsh(correlation)[0])
    if lowest > DEPENDENT:
        return
    pairs = (correlation.abs().triu(1) > ALIKE).nonzero().tolist()
    named = ", ".join(f"{i} and {j}" for i, j in pairs[:NAMED])
    detail = f"facts {named} have the same key" if pairs else "some keys are sums of others"
    more = f" (and {len(pairs) - NAMED} more pairs)" if len(pairs) > NAMED else ""
    raise SolverError(
        f"the facts cannot all hold exactly: {detail}{more}; drop one of each, or use a ridge, which averages them"
    )
