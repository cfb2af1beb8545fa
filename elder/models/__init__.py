"""Base models: loading them whole or sharded, checking what was loaded, finding their parts.

Names that callers outside the library use are fetched from here when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "anatomy": "elder.models.anatomy",
    "load_base": "elder.models.load",
    "load_config": "elder.models.load",
    "load_tokenizer": "elder.models.load",
    "resolve_source": "elder.models.load",
    "wrap_base": "elder.models.load",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'elder.models' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)
