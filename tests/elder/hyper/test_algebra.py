"""Networks, aggregation and the meta-gradient without a language model: invariants 25 to 30 and 32 (float64)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from elder.hyper.aggregate import malmen_shifts, ridge_factors, slim, sum_factors, ultra_shifts
from elder.hyper.factors import Factors
from elder.hyper.meta import Applied, backward, changes_of, ridge_gradients
from elder.hyper.network import HyperNetwork, Style
from elder.runtime import LocalRuntime
from elder.solvers.moments import RunningMoments
from elder.solvers.ridge import ridge_gain
from tests.elder.tiny import ThreadRuntime, on_ranks

SIZES = {"0.mlp_out": (7, 5), "1.mlp_out": (7, 5), "2.mlp_in.0": (4, 6)}
STYLES: tuple[Style, ...] = ("mend", "malmen")


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_factors(n: int = 11) -> dict[str, Factors]:
    return {
        name: Factors(draw(n, k, seed=i), draw(n, v, seed=i + 50), torch.arange(n))
        for i, (name, (k, v)) in enumerate(SIZES.items())
    }


def some_network(style: Style, moved: bool = True) -> HyperNetwork:
    network = HyperNetwork(SIZES, style, rank=3, blocks=2, lr=0.3, seed=1).double()
    network.observe(some_factors(30))
    if moved:
        with torch.no_grad():
            for i, p in enumerate(network.parameters()):
                p += 0.1 * draw(*p.shape, seed=i)
    return network


@pytest.mark.parametrize("style", STYLES)
def test_25_a_fresh_network_is_the_identity_and_learns_from_the_first_step(style: Style) -> None:
    network, factors = some_network(style, moved=False), some_factors()
    for name, own in factors.items():
        wanted = network.normalisers[network.shape_of[name]].normalise(own.joined)
        found = torch.cat(network(name, own.inputs, own.gradients), dim=1)
        assert torch.equal(found, wanted)
        assert float((wanted - own.joined).abs().max()) > 0.1
        (found * draw(*found.shape, seed=9)).sum().backward()
    for shape in ("7x5", "4x6"):
        assert all(float(block.b.grad.abs().max()) > 0 for block in network.networks[shape])


def test_maps_of_one_shape_share_a_network_and_its_normaliser() -> None:
    network = some_network("malmen")
    assert set(network.networks) == {"7x5", "4x6"}
    assert network.normalisers["7x5"].count == 60
    own = some_factors()["0.mlp_out"]
    one, other = (network(name, own.inputs, own.gradients)[0] for name in ("0.mlp_out", "1.mlp_out"))
    assert not torch.allclose(one, other)  # scales and shifts of their own


@pytest.mark.parametrize("n", [3, 20])
def test_26_the_regression_is_least_squares_of_the_augmented_system(n: int) -> None:
    u, t, lam = draw(n, 7), draw(n, 5, seed=1), 0.3
    left, right = ridge_factors(u, t, lam)
    augmented = torch.cat([u, lam**0.5 * torch.eye(7, dtype=torch.float64)])
    wanted = torch.linalg.lstsq(augmented, torch.cat([t, torch.zeros(7, 5, dtype=torch.float64)])).solution
    torch.testing.assert_close((left @ right).T, wanted, rtol=1e-8, atol=1e-10)
    left, right = ridge_factors(u, t, 1e12)
    assert float((left @ right).norm()) < 1e-9
    if n < 7:
        left, right = ridge_factors(u, t, 1e-12)
        torch.testing.assert_close(u @ (left @ right).T, t, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("n", [3, 20])
def test_27_the_gradient_of_the_regression_is_that_of_finite_differences(n: int) -> None:
    u, t, slope, rho = draw(n, 7), draw(n, 5, seed=1), draw(5, 7, seed=2), torch.tensor(-0.4, dtype=torch.float64)

    def loss(shifts: Tensor, log_ridge: Tensor) -> float:
        return float((shifts.T @ ridge_gain(u.T, None, log_ridge.exp()) * slope).sum())

    by_shift, by_ridge = ridge_gradients(Applied(*ridge_factors(u, t, float(rho.exp()))), u, slope)
    assert float(by_ridge) == pytest.approx((loss(t, rho + 1e-5) - loss(t, rho - 1e-5)) / 2e-5, rel=1e-7)
    for i, j in ((0, 0), (n - 1, 4), (1, 2)):
        step = torch.zeros_like(t)
        step[i, j] = 1e-4
        assert float(by_shift[i, j]) == pytest.approx((loss(t + step, rho) - loss(t - step, rho)) / 2e-4, rel=1e-7)


def end_to_end(network: HyperNetwork, factors: dict[str, Factors], slopes: dict[str, Tensor]) -> dict[str, Tensor]:
    """The gradient by one graph through network, shifts and solver."""
    network.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for name, own in factors.items():
        uh, gh = network(name, own.inputs, own.gradients)
        if network.style == "mend":
            left, right = sum_factors(uh, gh, network.lr(name))
            change = left @ right
        else:
            shifts = malmen_shifts(own.inputs, uh, gh, network.lr(name))
            ridge = network.log_ridge[network.number(name)].exp()
            change = shifts.T.double() @ ridge_gain(own.inputs.T, None, ridge)
        total = total + (change * slopes[name]).sum()
    total.backward()
    return {name: p.grad.clone() for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("style", STYLES)
def test_28_chunks_on_any_ranks_give_the_gradient_of_one_graph(style: Style, world_size: int) -> None:
    factors = some_factors()
    slopes = {name: draw(v, k, seed=70 + i) for i, (name, (k, v)) in enumerate(SIZES.items())}
    wanted = end_to_end(some_network(style), factors, slopes)

    def program(runtime: ThreadRuntime) -> dict[str, Tensor]:
        network = some_network(style)
        applied = changes_of(network, factors, runtime, chunk=4)
        backward(network, factors, applied, slopes, runtime, chunk=4)
        return {name: p.grad.clone() for name, p in network.named_parameters()}

    for found in on_ranks(program, world_size):
        assert set(found) == set(wanted)
        for name, gradient in wanted.items():
            scale = float(gradient.abs().max())
            assert float((found[name] - gradient).abs().max()) < 3e-6 * max(scale, 1.0), name


def test_gradients_of_blocks_add_up() -> None:
    network, factors, runtime = some_network("malmen"), some_factors(), LocalRuntime()
    slopes = {name: draw(v, k, seed=3) for name, (k, v) in SIZES.items()}
    applied = changes_of(network, factors, runtime, 100)
    backward(network, factors, applied, slopes, runtime, 100)
    once = {name: p.grad.clone() for name, p in network.named_parameters()}
    backward(network, factors, applied, slopes, runtime, 100)
    for name, p in network.named_parameters():
        torch.testing.assert_close(p.grad, 2 * once[name])


def test_29_a_single_token_moves_by_its_shift_shrunk() -> None:
    u, t, lam = draw(1, 7), draw(1, 5, seed=1), 0.8
    left, right = ridge_factors(u, t, lam)
    size = float(u.square().sum())
    torch.testing.assert_close(u @ (left @ right).T, t * size / (size + lam), rtol=1e-10, atol=0)


def test_30_ultraedit_is_malmen_untrained_with_another_scalar() -> None:
    network, own = some_network("malmen", moved=False), some_factors()["0.mlp_out"]
    uh, gh = network("0.mlp_out", own.inputs, own.gradients)
    malmen = malmen_shifts(uh, uh, gh, 0.3)  # u . uh replaced by ||uh||^2
    torch.testing.assert_close(malmen, ultra_shifts(uh, gh, 0.3), rtol=1e-12, atol=0)
    assert network.ridge("0.mlp_out") == 1.0


def test_32_untrained_mend_of_raw_factors_is_a_step_of_gradient_descent() -> None:
    network = HyperNetwork(SIZES, "mend", 1, blocks=0, lr=0.25).double()
    own = some_factors(1)["0.mlp_out"]
    change = changes_of(network, {"0.mlp_out": own}, LocalRuntime(), 10)["0.mlp_out"]
    torch.testing.assert_close(change.left @ change.right, -0.25 * own.gradients.T @ own.inputs, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("d", "m"), [(3, 5), (5, 3)])
def test_slim_factors_have_the_product_of_the_others(d: int, m: int) -> None:
    left, right = draw(d, 9), draw(9, m, seed=1)
    a, b = slim(left, right)
    assert a.shape == (d, 3)
    torch.testing.assert_close(a @ b, left @ right)
    assert slim(left[:, :2], right[:2])[0].shape == (d, 2)


def test_23_statistics_do_not_depend_on_the_partition() -> None:
    x = draw(17, 6)
    for sizes in ([17], [1] * 17, [3, 3, 1, 10]):
        moments = RunningMoments.empty(6)
        for part in x.split(sizes):
            moments.add(part)
        torch.testing.assert_close(moments.mean, x.mean(0), rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(moments.variance(), x.var(0, unbiased=False), rtol=1e-12, atol=1e-12)
