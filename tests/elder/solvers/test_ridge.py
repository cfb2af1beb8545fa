"""Invariants 5 to 8, 26 and 27 of the weight editors."""

from __future__ import annotations

import pytest
import torch

from elder.errors import SolverError
from elder.solvers.key_covariance import KeyCovariance
from elder.solvers.ridge import Form
from tests.elder.solvers.problem import (
    D,
    M,
    N,
    close,
    equality_update,
    make,
    plain_ridge,
    preserved,
    ridge_update,
)


@pytest.mark.parametrize("form", ["auto", "primal", "dual"])
@pytest.mark.parametrize("n", [1, N, M, 3 * M])
@pytest.mark.parametrize("factored", [True, False])
def test_every_form_is_the_formula(form: Form, n: int, factored: bool) -> None:
    p = make(n=n)
    prior = KeyCovariance(p.c) if factored else p.c
    assert close(ridge_update(p.k, p.r, prior, 3.0, form), plain_ridge(p.k, p.r, p.c, 3.0))


@pytest.mark.parametrize("form", ["auto", "primal", "dual"])
def test_without_a_prior_it_is_the_identity(form: Form) -> None:
    p = make()
    assert close(ridge_update(p.k, p.r, None, 0.5, form), plain_ridge(p.k, p.r, torch.eye(M).double(), 0.5))


def test_it_is_stationary() -> None:
    """lambda D C = (R - D K) K^T."""
    p = make()
    update = ridge_update(p.k, p.r, p.c, 2.0)
    assert close(2.0 * update @ p.c, (p.r - update @ p.k) @ p.k.mT)


def test_it_is_emmet_with_its_regulariser() -> None:
    """R (K^T (wC)^-1 K + a I)^-1 K^T (wC)^-1 for lambda = w a."""
    p, w, a = make(), 40.0, 0.1
    inverse = torch.linalg.inv(w * p.c)
    emmet = p.r @ torch.linalg.inv(p.k.mT @ inverse @ p.k + a * torch.eye(N).double()) @ p.k.mT @ inverse
    assert close(ridge_update(p.k, p.r, p.c, w * a), emmet)


def test_the_ridge_trades_memory_for_preservation() -> None:
    p = make()
    updates = [ridge_update(p.k, p.r, p.c, 10.0**e) for e in range(-3, 5)]
    missed = [float((p.r - u @ p.k).norm()) for u in updates]
    moved = [preserved(u, p.c) for u in updates]
    assert missed == sorted(missed)
    assert moved == sorted(moved, reverse=True)


def test_the_limits() -> None:
    """Like 1/lambda for large ones, the equality form for small ones."""
    p = make()
    large = [float(ridge_update(p.k, p.r, p.c, x).norm()) for x in (1e8, 1e9)]
    assert large[0] / large[1] == pytest.approx(10, rel=1e-4)
    assert close(ridge_update(p.k, p.r, p.c, 1e-10), equality_update(p.k, p.r, p.c), 1e-6)


def test_a_fact_given_twice_counts_twice() -> None:
    p = make()
    twice = ridge_update(torch.cat([p.k, p.k[:, :1]], 1), torch.cat([p.r, p.r[:, :1]], 1), p.c, 1.0)
    weight = torch.ones(N).double()
    weight[0] = 2**0.5
    assert close(ridge_update(p.k * weight, p.r * weight, p.c, 1.0), twice)


def test_conflicting_targets_of_one_key_are_averaged() -> None:
    p = make(n=2)
    keys = p.k[:, :1].repeat(1, 2)
    update = ridge_update(keys, p.r, p.c, 1e-6)
    assert close(update @ keys[:, 0], p.r.mean(1), 1e-6)


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_it_is_least_squares_of_the_augmented_system(form: Form) -> None:
    """MALMEN: U, T in rows; [U; sqrt(lambda) I] S = [T; 0]."""
    p, ridge = make(), 0.7
    system = torch.cat([p.k.mT, ridge**0.5 * torch.eye(M).double()])
    wanted = torch.linalg.lstsq(system, torch.cat([p.r.mT, torch.zeros(M, D).double()])).solution
    assert close(ridge_update(p.k, p.r, None, ridge, form).mT, wanted)


@pytest.mark.parametrize("form", ["primal", "dual"])
def test_gradients_go_through_the_solve(form: Form) -> None:
    """dL/dT = U M^-1 G and dL/drho = -lambda <M^-1 G, S>, lambda = exp(rho); and finite differences agree."""
    p = make(m=6, d=4, n=3)
    rho = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    shifts = p.r.clone().requires_grad_()
    outer = make(1, m=6, d=4).k.new_tensor(range(24)).reshape(4, 6).sin()  # dL/dS of some loss
    solution = ridge_update(p.k, shifts, None, rho.exp(), form)
    (solution * outer).sum().backward()
    system = p.k @ p.k.mT + rho.detach().exp() * torch.eye(6).double()
    adjoint = torch.linalg.solve(system, outer.mT)
    assert close(shifts.grad.mT, p.k.mT @ adjoint)
    assert float(rho.grad) == pytest.approx(float(-rho.exp() * (adjoint * solution.mT).sum()), rel=1e-8)
    assert torch.autograd.gradcheck(lambda r, x: ridge_update(p.k, r, None, x.exp(), form), (shifts, rho))


def test_float32_is_computed_in_float64() -> None:
    p = make()
    found = ridge_update(p.k.float(), p.r.float(), p.c.float(), 1e-4)
    exact = plain_ridge(p.k.float().double(), p.r.float().double(), p.c.float().double(), 1e-4)
    assert found.dtype == torch.float64
    assert close(found, exact)


def test_a_singular_prior_is_no_harm_if_the_facts_fill_it() -> None:
    p = make(n=3 * M)
    thin = p.c.clone()
    thin[0], thin[:, 0] = 0, 0
    assert close(ridge_update(p.k, p.r, thin, 1.0), plain_ridge(p.k, p.r, thin, 1.0))


def test_errors_say_what_to_do() -> None:
    p = make()
    thin = torch.zeros(M, M).double()
    with pytest.raises(SolverError, match=r"singular.*more tokens"):
        ridge_update(p.k, p.r, thin, 1.0)
    with pytest.raises(SolverError, match="greater than 0"):
        ridge_update(p.k, p.r, p.c, 0.0)
    with pytest.raises(SolverError, match="width 24, the keys of width 23"):
        ridge_update(p.k[1:], p.r, p.c, 1.0)
    with pytest.raises(SolverError, match=r"keys \(m, n\), found \(24,\)"):
        ridge_update(p.k[:, 0], p.r, p.c, 1.0)
    with pytest.raises(SolverError, match="not finite"):
        ridge_update(p.k * float("nan"), p.r, p.c, 1.0)
    with pytest.raises(SolverError, match="not symmetric"):
        ridge_update(p.k, p.r, p.c + torch.ones(M, M).triu(1), 1.0)


def test_jitter_makes_thin_statistics_usable() -> None:
    p = make()
    text = p.k[:, :3]
    prior = KeyCovariance(text @ text.mT, jitter=1e-3)
    expected = text @ text.mT + 1e-3 * (text @ text.mT).diagonal().mean() * torch.eye(M).double()
    assert close(prior.factor @ prior.factor.mT, expected)
