"""Hanging a mixture onto the linear maps of a model clone by hooks.

The base module is called as it is and the correction is added to its output for the rows in scope only, so rows out
of scope are the base model's bit for bit, whatever the number format. Knows nothing of routing rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from elder.mixture.lora import LowRankMixture
from elder.mixture.route import Route, RoutingClock


def attach_mixtures(
    targets: Sequence[nn.Module], groups: Sequence[Sequence[LowRankMixture]], clock: RoutingClock
) -> None:
    """Add `groups[g][l]` to the output of `targets[l]` for the rows that the clock's route gives to group g.

    Groups that are appended to `groups` later are seen.
    """
    for layer, target in enumerate(targets):
        target.register_forward_hook(_correction(layer, groups, clock))


def attach_tap(module: nn.Module, clock: RoutingClock, decide: Callable[[Tensor], Route | None]) -> None:
    """Let `decide` route the current pass from the input of `module`, (B, T, D), where a decision is due."""

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        if clock.moment is not None:
            clock.decide(decide(args[0]))

    module.register_forward_pre_hook(hook)


def corrected(
    x: Tensor, y: Tensor, groups: Sequence[LowRankMixture], gates: Tensor, route: Route, cached: bool
) -> Tensor:
    """The output of one edited map.

    Args:
        x: (B, T, in) its input.
        y: (B, T, out) what the base module made of it.
        groups: The low-rank maps of this layer, by group.
        gates: (B, N).
        route: Which rows and tokens are corrected.
        cached: The pass continues a cache, so that all its tokens come behind the prompt.

    Returns:
        (B, T, out); `y` itself, bit for bit, wherever nothing is corrected.
    """
    rows = slice(None) if route.rows is None else route.rows
    first = 0 if cached or route.start is None else route.first
    delta = _delta(x[rows, first:], groups, gates[rows], route).to(y.dtype)
    if first == 0 and route.rows is None and (cached or route.start is None):
        return y + delta
    if route.start is not None and not cached:
        places = torch.arange(first, x.shape[1], device=x.device)
        delta = delta * (places >= route.start[rows, None]).unsqueeze(-1)
    result = y.clone()
    result[rows, first:] = y[rows, first:] + delta
    return result


def _delta(x: Tensor, groups: Sequence[LowRankMixture], gates: Tensor, route: Route) -> Tensor:
    """The corrections of the rows in scope, each from its own group."""
    if len(route.parts) == 1:
        return groups[route.parts[0][0]](x, gates)  # type: ignore[no-any-return]
    pieces = [groups[group](x[rows], gates[rows]) for group, rows in route.parts]
    order = torch.cat([rows for _, rows in route.parts if rows is not None])
    return torch.cat(pieces)[order.argsort()]


def _correction(
    layer: int, groups: Sequence[Sequence[LowRankMixture]], clock: RoutingClock
) -> Callable[..., Tensor | None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        route = clock.route
        if route is None:
            return None
        maps = [group[layer] for group in groups]
        return corrected(args[0], output, maps, route.gates[layer], route, clock.cached)

    return hook


def rows_in_scope(inside: Tensor) -> Tensor | None | bool:
    """(B,) bool -> False when no row is in scope, None when all are, else their indices (one transfer, one sync)."""
    flags = inside.tolist()
    if not any(flags):
        return False
    if all(flags):
        return None
    return torch.tensor([i for i, flag in enumerate(flags) if flag], device=inside.device)
