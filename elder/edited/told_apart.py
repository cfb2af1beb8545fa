"""Maps that are told apart from others of their kind by whoever compiles a model.

`torch.compile` reuses what it made of one block for the next one, if their parts are of the same classes; it does not
look at hooks. A map with a hook therefore gets a class of its own, or the hook would be skipped without a word.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

from torch import nn


def tell_apart(maps: Iterable[nn.Module]) -> None:
    """Give maps classes of their own, which go by the names of those they had; nothing else changes."""
    for module in maps:
        if not isinstance(module, _ToldApart):
            kind: Any = type(module)
            module.__class__ = _told_apart(kind)


class _ToldApart:
    """Mixed into the class of a map."""

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _restored, (type(self).__mro__[2],), self.__dict__


@functools.cache
def _told_apart(kind: Any) -> Any:
    names = {"__module__": kind.__module__, "__qualname__": kind.__qualname__, "__doc__": kind.__doc__}
    return type(kind.__name__, (_ToldApart, kind), names)


def _restored(kind: Any) -> Any:
    made = _told_apart(kind)
    return made.__new__(made)
