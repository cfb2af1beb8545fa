"""A value that belongs to the calling thread or task, so that calls which run side by side do not meet.

`eager` marks the code that looks at such values: a compiled model runs it anew in every pass.

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar, Token
from typing import Any, Generic, TypeVar

import torch

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def eager(function: F) -> F:
    """Keep a function out of what `torch.compile` makes of the code around it."""
    kept: F = torch.compiler.disable(function)  # type: ignore[no-untyped-call]
    return kept


class Scoped(Generic[T]):
    """A default value, and another one inside a block of the thread or task that sets it.

    A copy, or what is unpickled, has the default everywhere: what a call is doing is not part of a model.

    Args:
        default: The value outside of all blocks; not changed by anybody.
    """

    def __init__(self, default: T) -> None:
        self._default = default
        self._variable: ContextVar[T] = ContextVar("elder", default=default)

    def get(self) -> T:
        """The value here and now."""
        return self._variable.get()

    def enter(self, value: T) -> Token[T]:
        """Set the value for this thread or task until `leave` gets what this returns."""
        return self._variable.set(value)

    def leave(self, token: Token[T]) -> None:
        """Go back to the value before `enter`."""
        self._variable.reset(token)

    @contextmanager
    def holding(self, value: T) -> Iterator[None]:
        """Hold a value inside the block."""
        token = self._variable.set(value)
        try:
            yield
        finally:
            self._variable.reset(token)

    def __deepcopy__(self, memo: dict[int, Any]) -> Scoped[T]:
        return Scoped(self._default)

    def __reduce__(self) -> tuple[Any, ...]:
        return Scoped, (self._default,)
