"""A generated world of people and facts, and the small Llama that knows it (`world:small`, `world:tiny`).

`ensure_world` and `world_edits` are the way in; they are looked up on first use, so that importing this
package imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elder.world.cache import ensure_world
    from elder.world.edits import world_edits

__all__ = ["ensure_world", "world_edits"]

_HOMES = {"ensure_world": "elder.world.cache", "world_edits": "elder.world.edits"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
