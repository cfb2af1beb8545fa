"""E4, E5: gates and the guided loss."""

from __future__ import annotations

import math

import pytest
import torch

from elder.mixture.router import Router, guided_loss, keep_top

L, N, K, WIDTH = 3, 5, 2, 16


def make_router(bias: bool = True, seed: int = 0) -> Router:
    return Router(WIDTH, L, N, bias, torch.Generator().manual_seed(seed))


def random_allocation(rows: int) -> torch.Tensor:
    return torch.zeros(rows, L, N, dtype=torch.bool).scatter_(-1, torch.rand(rows, L, N).topk(K, -1).indices, True)


def test_e04_probabilities_of_all_maps_sum_to_one() -> None:
    log_p = make_router()(torch.randn(7, WIDTH))
    assert log_p.shape == (7, L, N)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(7, L))


def test_e04_kept_weights_are_the_k_largest_and_not_renormalised() -> None:
    log_p = make_router()(torch.randn(7, WIDTH))
    weights, chosen = keep_top(log_p, K)
    p = log_p.exp()
    for row in range(7):
        for layer in range(L):
            best = sorted(range(N), key=lambda i: -p[row, layer, i])[:K]
            assert chosen[row, layer].nonzero()[:, 0].tolist() == sorted(best)
            for i in range(N):
                assert weights[row, layer, i] == (p[row, layer, i] if i in best else 0)
    assert (weights.sum(-1) < 1).all()


def test_e04_ties_still_keep_exactly_k() -> None:
    assert (keep_top(torch.zeros(2, L, N), K)[1].sum(-1) == K).all()


@pytest.mark.parametrize("bias", [True, False])
def test_all_layers_at_once_are_the_routers_one_by_one(bias: bool) -> None:
    router, query = make_router(bias), torch.randn(4, WIDTH)
    log_p = router(query)
    for layer in range(L):
        rows = slice(layer * N, (layer + 1) * N)
        scores = query @ router.weight[rows].T + (router.bias[rows] if router.bias is not None else 0)
        torch.testing.assert_close(log_p[:, layer], scores.log_softmax(-1))
    assert (router.bias is not None) == bias


def test_half_precision_queries_give_float32_gates() -> None:
    router, query = make_router(), torch.randn(4, WIDTH).bfloat16()
    assert router(query).dtype == torch.float32
    assert torch.equal(router(query), router(query.float()))


def test_e05_guided_loss_of_an_undecided_router_is_l_k_ln_n() -> None:
    router = make_router()
    torch.nn.init.zeros_(router.weight)
    torch.nn.init.zeros_(router.bias)
    loss = guided_loss(router(torch.randn(6, WIDTH)), random_allocation(6))
    torch.testing.assert_close(loss, torch.full((6,), L * K * math.log(N)))


def test_e05_guided_loss_is_never_below_l_k_ln_k() -> None:
    allocation = random_allocation(200)
    floor = L * K * math.log(K)
    assert (guided_loss(torch.randn(200, L, N).mul(3).log_softmax(-1), allocation) >= floor).all()
    reached = guided_loss((allocation.float() * 50).log_softmax(-1), allocation)
    torch.testing.assert_close(reached, torch.full((200,), floor))


def test_e05_guided_loss_is_the_sum_over_layers_and_allocated_maps_row_by_row() -> None:
    log_p, allocation = torch.randn(6, L, N).log_softmax(-1), random_allocation(6)
    loss = guided_loss(log_p, allocation)
    for b in range(6):
        by_hand = -sum(log_p[b, i, j] for i in range(L) for j in range(N) if allocation[b, i, j])
        torch.testing.assert_close(loss[b], by_hand)
    order = torch.randperm(6)
    assert torch.equal(guided_loss(log_p[order], allocation[order]), loss[order])


def test_e05_guided_loss_stays_finite_for_a_router_that_is_sure_and_wrong() -> None:
    scores = torch.zeros(1, L, N)
    scores[..., 0] = 1000.0
    allocation = torch.zeros(1, L, N, dtype=torch.bool)
    allocation[..., 1:3] = True
    log_p = scores.requires_grad_().log_softmax(-1)
    loss = guided_loss(log_p, allocation).sum()
    loss.backward()
    assert loss.isfinite()
    assert scores.grad.isfinite().all()


def test_the_generator_alone_decides_the_initial_values() -> None:
    torch.manual_seed(1)
    first = make_router(seed=3)
    torch.manual_seed(2)
    assert torch.equal(first.weight, make_router(seed=3).weight)
    assert not torch.equal(first.weight, make_router(seed=4).weight)
