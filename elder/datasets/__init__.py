"""Where edits come from: one file for each layout; `load_edits` reads any of them.

The names below are looked up on first use, so that importing this package imports nothing else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elder.datasets.catalogue import DATASETS
    from elder.datasets.load import load_edits, open_edits
    from elder.datasets.reader import EditReader
    from elder.datasets.stream import EditStream, validate_stream
    from elder.datasets.stream_check import check_stream

__all__ = ["DATASETS", "EditReader", "EditStream", "check_stream", "load_edits", "open_edits", "validate_stream"]

_HOMES = {
    "DATASETS": "elder.datasets.catalogue",
    "load_edits": "elder.datasets.load",
    "open_edits": "elder.datasets.load",
    "EditReader": "elder.datasets.reader",
    "EditStream": "elder.datasets.stream",
    "validate_stream": "elder.datasets.stream",
    "check_stream": "elder.datasets.stream_check",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
