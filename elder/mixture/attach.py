"""Hanging a mixture onto the linear maps of a model clone by hooks.

The base module is called as it is and the correction is added to its output for the rows in scope only, so rows out
of scope are the base model's bit for bit, whatever the number format. Knows nothing of routing rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from elder.errors import ModelError
from elder.mixture.lora import LowRankMixture
from elder.mixture.route import Route, RoutingClock


def attach_mixtures(
    targets: Sequence[nn.Module], groups: Sequence[Sequence[LowRankMixture]], clock: RoutingClock
) -> None:
    """Add `groups[g][l]` to the output of `targets[l]` for the rows that the clock's route gives to group g.

    Groups that are appended to `groups` later are seen. A pass of the model raises ModelError if its targets do not see
    tokens by rows.
    """
    for layer, target in enumerate(targets):
        target.register_forward_hook(_correction(layer, groups, clock))


def attach_tap(module: nn.Module, clock: RoutingClock, decide: Callable[[Tensor], Route | None]) -> None:
    """Let `decide` route the current pass from the input of `module`, (B, T, D), where a decision is due."""

    def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
        _check_rows(args[0])
        if clock.moment is not None:
            clock.decide(decide(args[0]))

    module.register_forward_pre_hook(hook)


def listen_low(model: PreTrainedModel, blocks: Sequence[nn.Module], low: int, note: Callable[[Tensor], None]) -> None:
    """Report the states (B, T, D) of every pass where subject keys are taken.

    Block 0 means the token embeddings themselves, before positions are added: a name looks the same wherever it stands.
    Other blocks are listened to at their input.
    """
    if low == 0:
        model.get_input_embeddings().register_forward_hook(lambda _, args, states: note(states))
    else:
        blocks[low].register_forward_pre_hook(lambda _, args: note(args[0]))


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


def _check_rows(x: Tensor) -> None:
    """Refuse to work on a map that does not see which token belongs to which row.

    Raises:
        ModelError: Its input has not the shape (rows, tokens, width).
    """
    if x.dim() != 3:
        raise ModelError(
            f"editor.target: this model (like OPT) hands its MLP tokens of shape {tuple(x.shape)} instead of "
            "(rows, tokens, width), so that rows cannot be told apart; such models cannot be edited"
        )


def _correction(
    layer: int, groups: Sequence[Sequence[LowRankMixture]], clock: RoutingClock
) -> Callable[..., Tensor | None]:
    def hook(_: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        _check_rows(args[0])
        route = clock.route
        if route is None:
            return None
        maps = [group[layer] for group in groups]
        return corrected(args[0], output, maps, route.gates[layer], route, clock.cached)

    return hook


def rows_in_scope(inside: Tensor) -> Tensor | bool | None:
    """(B,) bool -> False when no row is in scope, None when all are, else their indices (one transfer, one sync)."""
    flags = inside.tolist()
    if not any(flags):
        return False
    if all(flags):
        return None
    return torch.tensor([i for i, flag in enumerate(flags) if flag], device=inside.device)
