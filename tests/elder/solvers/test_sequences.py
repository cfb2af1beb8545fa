"""Invariants 9 to 12 of the weight editors: batches that remember, and the null space."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elder.errors import SolverError
from elder.solvers.nullspace import NullSpace
from elder.solvers.recursive import RecursiveRidge
from tests.elder.solvers.problem import M, close, make, plain_ridge, preserved, ridge_update

PARTITIONS = [(20,), (1,) * 20, (7, 1, 12), (10, 10)]


def in_batches(solver: RecursiveRidge, k: Tensor, targets: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """The sum of the updates when each batch lacks what the updates before it left over."""
    total = torch.zeros(len(targets), len(k)).double()
    for part in torch.arange(k.shape[1]).split(list(sizes)):
        total += (targets[:, part] - total @ k[:, part]) @ solver.gain(k[:, part])
        solver.absorb(k[:, part])
    return total


@pytest.mark.parametrize("sizes", PARTITIONS)
@pytest.mark.parametrize("identity", [True, False])
def test_any_partition_gives_the_joint_solution(sizes: tuple[int, ...], identity: bool) -> None:
    p = make(n=20)
    solver = RecursiveRidge(None if identity else p.c, 2.0, M)
    joint = ridge_update(p.k, p.r, None if identity else p.c, 2.0)
    assert close(in_batches(solver, p.k, p.r, sizes), joint)


def test_without_memory_it_is_another_solution() -> None:
    p = make(n=20)
    total = torch.zeros(len(p.r), M).double()
    for part in torch.arange(20).split(5):
        total += ridge_update(p.k[:, part], p.r[:, part] - total @ p.k[:, part], p.c, 2.0)
    assert not close(total, ridge_update(p.k, p.r, p.c, 2.0), 1e-2)


def test_ten_batches_of_recursion_stay_a_direct_inverse() -> None:
    p = make(n=60)
    solver = RecursiveRidge(p.c, 0.5)
    for part in torch.arange(60).split(6):
        solver.absorb(p.k[:, part])
    k = make(1, n=M).k
    assert close(solver.gain(k), k.mT @ torch.linalg.inv(0.5 * p.c + p.k @ p.k.mT + k @ k.mT), 1e-7)


def test_solving_alone_remembers_nothing() -> None:
    p = make()
    solver = RecursiveRidge(p.c, 1.0)
    first = solver.gain(p.k)
    assert torch.equal(first, solver.gain(p.k))
    assert close(p.r @ first, plain_ridge(p.k, p.r, p.c, 1.0))


@pytest.mark.parametrize("identity", [True, False])
def test_what_is_remembered_costs_nothing_before_it_is_used(identity: bool) -> None:
    """Edits that never meet need no m x m inverse each; keys that wait count as soon as others come."""
    p, other = make(), make(1)
    solver = RecursiveRidge(None if identity else p.c, 2.0, M)
    prior = torch.eye(M).double() if identity else p.c
    assert close(p.r @ solver.gain(p.k), plain_ridge(p.k, p.r, prior, 2.0))
    solver.absorb(p.k)
    assert solver._inverse is None
    expected = other.r @ other.k.mT @ torch.linalg.inv(2.0 * prior + p.k @ p.k.mT + other.k @ other.k.mT)
    assert close(other.r @ solver.gain(other.k), expected)


def test_a_singular_prior_is_refused_at_once() -> None:
    with pytest.raises(SolverError, match="singular"):
        RecursiveRidge(torch.ones(M, M).double(), 1.0)


def test_keys_absorbed_later_than_solved() -> None:
    """AlphaEdit remembers the keys of the edited model, not those it solved for."""
    p, other = make(), make(1)
    solver = RecursiveRidge(p.c, 1.0)
    solver.absorb(other.k)
    expected = p.r @ p.k.mT @ torch.linalg.inv(p.c + other.k @ other.k.mT + p.k @ p.k.mT)
    assert close(p.r @ solver.gain(p.k), expected)


def test_the_projector() -> None:
    p = make()
    values, vectors = torch.linalg.eigh(p.c)
    threshold = float(values[9] + values[10]) / 2
    projector = NullSpace.of(p.c, threshold).projector
    assert torch.equal(projector, projector.mT)
    assert close(projector @ projector, projector)
    assert float(projector.trace()) == pytest.approx(10)
    assert float((projector @ vectors[:, 10:]).norm()) < 1e-10
    relative = NullSpace.of(100 * p.c, threshold / float(p.c.diagonal().mean()), relative=True)
    assert close(relative.projector, projector)


def test_thresholds_at_the_ends() -> None:
    p = make()
    assert close(NullSpace.of(p.c, 1e9).projector, torch.eye(M).double())
    assert not NullSpace.of(p.c, 0.0).projector.any()
    with pytest.raises(SolverError, match="negative"):
        NullSpace.of(p.c, -1.0)


def alpha(p: Tensor, k: Tensor, r: Tensor, seen: Tensor, ridge: float) -> Tensor:
    """AlphaEdit as its authors solve it: not symmetric, m x m."""
    system = p @ (k @ k.mT + seen @ seen.mT) + ridge * torch.eye(len(p)).double()
    return torch.linalg.solve(system, p @ k @ r.mT).mT


def test_the_reduced_basis_is_alphaedit() -> None:
    p, seen, ridge = make(), make(1).k, 10.0
    space = NullSpace.of(p.c, float(torch.linalg.eigvalsh(p.c).median()))
    solver = RecursiveRidge(None, ridge, space.rank)
    solver.absorb(space.reduce(seen))
    update = p.r @ space.lift(solver.gain(space.reduce(p.k)))
    assert close(update, alpha(space.projector, p.k, p.r, seen, ridge))
    assert close(update @ space.projector, update)
    assert preserved(update, p.c) <= space.threshold * float(update.norm()) ** 2


def test_the_whole_space_is_an_ordinary_ridge() -> None:
    p, seen = make(), make(1).k
    space = NullSpace.of(p.c, 1e9)
    solver = RecursiveRidge(None, 3.0, space.rank)
    solver.absorb(space.reduce(seen))
    expected = p.r @ p.k.mT @ torch.linalg.inv(p.k @ p.k.mT + seen @ seen.mT + 3.0 * torch.eye(M).double())
    assert close(p.r @ space.lift(solver.gain(space.reduce(p.k))), expected)


def test_what_text_never_uses_is_an_exact_null_space() -> None:
    p = make()
    text = p.c[:, :8]
    space = NullSpace.of(text @ text.mT, 1e-6)
    assert space.rank == M - 8
    update = space.lift(ridge_update(space.reduce(p.k), p.r, None, 1.0))
    assert float((update @ text).norm()) < 1e-8 * float(update.norm())
