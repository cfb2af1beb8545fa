"""Computing in float64 what the product computes in float32, so that parity is not a question of rounding.

Adam divides by the size of the gradient: where a gradient is next to nothing it makes steps of its rounding, in float32
up to the learning rate on whichever entry a processor happens to round otherwise. In float64 the rounding of a gradient
is far below Adam's own epsilon, and the steps it makes are as small.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from elder.registry import METHODS

UNIT = 2.0**-53  # one rounding of float64, relative
ADAM_EPS = 1e-8  # what Adam adds to the size of a gradient
ROUNDING = "transformers.models.llama.modeling_llama"  # its norms compute in float32 whatever the model's format


class _Double:
    """torch, where `float` and `float32` are `float64`. Not for torch itself, which keeps tables of its formats."""

    float = float32 = torch.float64

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(torch, name, value)


@contextmanager
def in_double(*others: str) -> Iterator[None]:
    """In the block `float` means float64 to the product: as default, `torch.float`, `torch.float32` and `x.float()`.

    The model must be float64 as well.

    Args:
        *others: Modules, not of the product, to which it means that too.
    """
    before, single = torch.get_default_dtype(), Tensor.float
    for method in METHODS.values():
        import_module(method.editor.partition(":")[0])  # modules that are loaded later would miss what follows
    known = [m for name, m in sys.modules.items() if name.startswith("elder.")]
    known += map(import_module, (ROUNDING, *others))
    changed = [module for module in known if vars(module).get("torch") is torch]
    torch.set_default_dtype(torch.float64)
    Tensor.float = Tensor.double  # type: ignore[method-assign]
    try:
        for module in changed:
            module.torch = _Double()  # type: ignore[attr-defined]
        yield
    finally:
        for module in changed:
            module.torch = torch  # type: ignore[attr-defined]
        Tensor.float = single  # type: ignore[method-assign]
        torch.set_default_dtype(before)


def trained_apart(steps: int, lr: float, terms: int) -> float:
    """How far an entry may come out of two trainings that add up the same gradients in another order.

    A gradient is a sum of so many terms of size 1 at most, and so are the activations below it: it is off by
    `terms * UNIT`. A step of Adam is lr * g / (|g| + eps) at most, which moves by lr * error / eps where g itself is
    nothing and by less anywhere else; and there are so many steps.
    """
    return steps * lr * terms * UNIT / ADAM_EPS


def half_step(values: Tensor) -> Tensor:
    """From numbers in half precision to the next ones away from 0: how far two roundings of nearly one number are."""
    exact = values.double().abs()
    return torch.maximum(exact * torch.finfo(torch.half).eps, torch.tensor(2.0**-24, dtype=torch.float64))


def worst(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], apart: float) -> list[str]:
    """What in a state is not what it should be: names with by how much, in units of what is allowed.

    Args:
        found: A state.
        wanted: Another one. Integers and truth values must be equal.
        apart: For numbers with fractions, absolutely and relative to their size. Those kept in half precision were as
            near as that before they were rounded, so they may be one step apart on top.
    """
    wrong = [f"{name}: not in both" for name in set(found) ^ set(wanted)]
    for name in set(found) & set(wanted):
        ours, theirs = found[name], wanted[name]
        if not theirs.is_floating_point() or ours.shape != theirs.shape:
            wrong += [] if torch.equal(ours, theirs) else [f"{name}: differs"]
        elif theirs.numel():
            allowed = apart * theirs.double().abs().clamp(min=1)
            if theirs.dtype == torch.half:
                allowed = allowed + half_step(torch.maximum(ours.abs(), theirs.abs()))
            most = float(((ours.double() - theirs.double()).abs() / allowed).max())
            wrong += [] if most <= 1 else [f"{name}: {most:.3g} times what is allowed"]
    return wrong
