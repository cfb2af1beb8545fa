"""Attaching a mixture to the linear maps of a model by hooks.

The base module is called as it is and the correction is added to its output for the tokens in scope only, so all
others are the base model's bit for bit, whatever the number format. Hooks are objects, not closures: a copy of a model
has hooks that serve the copy. Knows nothing of routing rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from elder.mixture.route import Plan
from elder.models.anatomy import check_rows
from elder.scoped import eager


class Steering(Protocol):
    """The pass that runs in this thread, as hooks see it."""

    def planned(self) -> tuple[Plan, Sequence[Sequence[nn.Module]]] | None:
        """Which tokens are corrected, and the groups of low-rank maps; None when none are."""

    def tapped(self, states: Tensor) -> None:
        """What the routing tap sees, (B, T, Q)."""

    def seen_low(self, states: Tensor) -> None:
        """The states where subject keys are taken, (B, T, D)."""

    def leaning(self, logits: Tensor) -> Tensor:
        """The logits of the pass, (B, K, V), with what is added to them."""


class Bench(Protocol):
    """The mixtures on the clone that training runs on, as trainers ask the editor for them."""

    def disabled(self) -> AbstractContextManager[None]:
        """Passes in this block are the base model's."""

    def imposing(self, plan: Plan) -> AbstractContextManager[None]:
        """Passes in this block use the given plan and the maps that are being trained."""


def attach_mixtures(targets: Sequence[nn.Module], steering: Steering) -> None:
    """Add a correction to the output of each target, as the plan of the pass says.

    A pass of the model raises ModelError if its targets do not see tokens by rows.
    """
    for layer, target in enumerate(targets):
        target.register_forward_hook(_Correction(layer, steering))


def attach_tap(module: nn.Module, steering: Steering, output: bool = False) -> None:
    """Report the input of `module` before it runs, or its output."""
    if output:
        module.register_forward_hook(_OutputTap(steering))
    else:
        module.register_forward_pre_hook(_Tap(steering))


def attach_head(head: nn.Module, steering: Steering) -> None:
    """Let the logits of a model's head be changed, as the pass says."""
    head.register_forward_hook(_Head(steering))


def listen_low(
    model: PreTrainedModel, blocks: Sequence[nn.Module], low: int, note: Callable[[nn.Module, Any, Any], None]
) -> None:
    """Report the states (B, T, D) of every pass where subject keys are taken, as the last argument of `note`.

    Block 0 means the token embeddings themselves, before positions are added: a name looks the same wherever it occurs.
    Other blocks are listened to at their input.
    """
    if low == 0:
        model.get_input_embeddings().register_forward_hook(note)
    else:
        blocks[low].register_forward_pre_hook(_FirstInput(note))


class Low:
    """Reports the states of a low block to the pass, see `listen_low`."""

    def __init__(self, steering: Steering) -> None:
        self.steering = steering

    @eager  # what a pass is doing is asked anew in every pass
    def __call__(self, _: nn.Module, __: Any, states: Tensor) -> None:
        """Called by the hook of `listen_low`."""
        self.steering.seen_low(states)


def corrected(
    x: Tensor, y: Tensor, groups: Sequence[Any], gates: Tensor, plan: Plan, layer: int | None = None
) -> Tensor:
    """The output of one edited map.

    Args:
        x: (B, T, in) its input.
        y: (B, T, out) the output of the base module.
        groups: The low-rank maps of this layer, by group.
        gates: Those of this layer, see `Plan.gates`.
        plan: Which tokens are corrected.
        layer: Number of the edited layer, for a plan that serves many passes.

    Returns:
        (B, T, out); `y` itself, bit for bit, wherever nothing is corrected.
    """
    if plan.tokens is None:
        flat = gates.dim() == 2 and len(gates) == x.shape[0] * x.shape[1]
        delta = _delta(x.flatten(0, 1) if flat else x, groups, gates, plan, layer).to(y.dtype)
        delta = delta.view_as(y) if flat else delta
        return y + (delta if plan.keep is None else delta * plan.keep[..., None])
    delta = _delta(x.flatten(0, 1)[plan.tokens], groups, gates, plan, layer).to(y.dtype)
    result = y.clone(memory_format=torch.contiguous_format)
    tokens = result.view(-1, y.shape[-1])
    tokens[plan.tokens] = tokens[plan.tokens] + delta
    return result


def _delta(x: Tensor, groups: Sequence[Any], gates: Tensor, plan: Plan, layer: int | None) -> Tensor:
    """The corrections of the tokens in scope, each from its own group."""
    if len(plan.parts) > 1:
        pieces = [groups[group](x[part], gates[part]) for group, part in plan.parts]
        order = torch.cat([part for _, part in plan.parts if part is not None])
        return torch.cat(pieces)[order.argsort()]
    mixture = groups[plan.parts[0][0]]
    if layer is None or gates.dim() < x.dim() or torch.is_grad_enabled():
        return mixture(x, gates)  # type: ignore[no-any-return]
    columns = plan.scaled.get((layer, x.dtype))
    if columns is None:
        columns = plan.scaled[layer, x.dtype] = mixture.columns(gates, x.dtype)
    return mixture.mixed(x, columns)  # type: ignore[no-any-return]


class _Correction:
    def __init__(self, layer: int, steering: Steering) -> None:
        self.layer, self.steering = layer, steering

    @eager
    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor | None:
        check_rows(args[0])
        found = self.steering.planned()
        if found is None:
            return None
        plan, groups = found
        maps = [group[self.layer] for group in groups]
        return corrected(args[0], output, maps, plan.gates[self.layer], plan, self.layer)


class _Tap:
    def __init__(self, steering: Steering) -> None:
        self.steering = steering

    @eager
    def __call__(self, _: nn.Module, args: tuple[Any, ...]) -> None:
        check_rows(args[0])
        self.steering.tapped(args[0])


class _OutputTap:
    def __init__(self, steering: Steering) -> None:
        self.steering = steering

    @eager
    def __call__(self, _: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        check_rows(args[0])
        self.steering.tapped(output)


class _Head:
    def __init__(self, steering: Steering) -> None:
        self.steering = steering

    @eager
    def __call__(self, _: nn.Module, __: Any, logits: Tensor) -> Tensor:
        return self.steering.leaning(logits)


class _FirstInput:
    """Passes the first positional input of a block on as if it were its output."""

    def __init__(self, note: Callable[[nn.Module, Any, Any], None]) -> None:
        self.note = note

    @eager
    def __call__(self, module: nn.Module, args: tuple[Any, ...]) -> None:
        self.note(module, args, args[0])
