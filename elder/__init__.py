"""elder: lifelong knowledge editing of language models.

    base = elder.load_base("world:small")
    editor = elder.make_editor("elder-plus", base)
    editor.edit(elder.load_edits("world:small", limit=50))
    editor.save("adapter/")
    edited = elder.load_edited("adapter/", base=base)

Importing this package imports neither torch nor transformers: each name is fetched when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elder.adapter import load_edited as load_edited
    from elder.datasets.load import load_edits as load_edits
    from elder.edit import Edit as Edit
    from elder.edit import Probe as Probe
    from elder.editors.make import make_editor as make_editor
    from elder.export import export_merged as export_merged
    from elder.metrics.evaluate import evaluate as evaluate
    from elder.models.load import load_base as load_base
    from elder.wrapping import wrap as wrap

__version__ = "0.1.0"

_HOMES = {
    "Edit": "elder.edit",
    "Probe": "elder.edit",
    "export_merged": "elder.export",
    "evaluate": "elder.metrics.evaluate",
    "load_base": "elder.models.load",
    "load_edited": "elder.adapter",
    "load_edits": "elder.datasets.load",
    "make_editor": "elder.editors.make",
    "wrap": "elder.wrapping",
}

__all__ = [
    "Edit",
    "Probe",
    "evaluate",
    "export_merged",
    "load_base",
    "load_edited",
    "load_edits",
    "make_editor",
    "wrap",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'elder' has no attribute '{name}'")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
