"""Base models: loading them whole or sharded, checking what was loaded, finding their parts.

The names below are looked up on first use, so that importing this package imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elder.models.load import load_base, load_config, load_tokenizer, resolve_source, wrap_base

__all__ = ["load_base", "load_config", "load_tokenizer", "resolve_source", "wrap_base"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("elder.models.load"), name)
