"""A value that belongs to the calling thread or task, so that concurrent calls do not affect each other.

`eager` marks code that reads such values: a compiled model runs it anew in every pass.

Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
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

    A copy, or what is unpickled, has the default everywhere: the state of a call is not part of a model.

    Args:
        default: The value outside of all blocks; never changed.
    """

    def __init__(self, default: T) -> None:
        self._default = default
        self._variable: ContextVar[T] = ContextVar("elder", default=default)

    def get(self) -> T:
        """The value here and now."""
        return self._variable.get()

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
