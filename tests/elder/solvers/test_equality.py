"""Invariants 1 to 4, 8 and 14 of the weight editors."""

from __future__ import annotations

import pytest
import torch

from elder.errors import SolverError
from elder.solvers.key_covariance import KeyCovariance
from tests.elder.solvers.problem import M, N, close, equality_update, make, preserved


def test_every_fact_holds_exactly() -> None:
    p = make()
    assert close(equality_update(p.k, p.r, p.c) @ p.k, p.r)


def test_one_fact_is_rome() -> None:
    """r (C^-1 k)^T / (k^T C^-1 k): rank one, its row space spanned by C^-1 k."""
    p = make(n=1)
    direction = torch.linalg.solve(p.c, p.k)
    update = equality_update(p.k, p.r, p.c)
    assert close(update, p.r @ direction.mT / float((p.k * direction).sum()))
    assert int(torch.linalg.matrix_rank(update)) == 1


def test_it_moves_ordinary_outputs_least() -> None:
    """Any other feasible D = D + Z (I - K K^+) costs more."""
    p = make()
    update = equality_update(p.k, p.r, p.c)
    free = torch.eye(M).double() - p.k @ torch.linalg.pinv(p.k)
    for seed in range(20):
        other = update + 1e-2 * make(seed + 1, n=M).r @ free
        assert close(other @ p.k, p.r)
        assert preserved(other, p.c) > preserved(update, p.c)


def test_the_scale_of_the_prior_and_the_order_of_facts_do_not_matter() -> None:
    p = make()
    update, order = equality_update(p.k, p.r, p.c), torch.randperm(N, generator=torch.Generator().manual_seed(3))
    assert close(equality_update(p.k, p.r, KeyCovariance(1e4 * p.c)), update)
    assert close(equality_update(p.k[:, order], p.r[:, order], p.c), update)


def test_keys_of_very_different_length_are_all_met() -> None:
    p = make()
    lengths = 10.0 ** torch.arange(-4, N - 4).double()
    assert close(equality_update(p.k * lengths, p.r, p.c) @ (p.k * lengths), p.r)


def test_nothing_missing_changes_nothing() -> None:
    p = make()
    assert not equality_update(p.k, torch.zeros_like(p.r), p.c).any()


def test_facts_that_cannot_all_hold_are_refused_by_name() -> None:
    p = make()
    twice = torch.cat([p.k, 2 * p.k[:, 2:3]], 1)
    targets = torch.cat([p.r, p.r[:, :1]], 1)
    with pytest.raises(SolverError, match="facts 2 and 7 have the same key"):
        equality_update(twice, targets, p.c)
    mixed = torch.cat([p.k, p.k[:, :1] + p.k[:, 1:2]], 1)
    with pytest.raises(SolverError, match="sums of others"):
        equality_update(mixed, targets, p.c)
    crowd = make(n=M + 1)
    with pytest.raises(SolverError, match="25 facts cannot hold exactly in a layer of width 24"):
        equality_update(crowd.k, crowd.r, crowd.c)
    silent = p.k.clone()
    silent[:, 4] = 0
    with pytest.raises(SolverError, match="fact 4 is zero"):
        equality_update(silent, p.r, p.c)
