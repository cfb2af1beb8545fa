"""Making an editor by the name of its method."""

from __future__ import annotations

from typing import Any

from elder.base import Base, Editor
from elder.registry import editor_class, make_options


def make_editor(method: str, base: Base, **options: Any) -> Editor:
    """An editor of the given method on a base model, which stays unchanged.

    Args:
        method: A name that `elder ls methods` lists.
        base: From `elder.load_base`.
        **options: Options of the method; see docs/config.md.

    Raises:
        ConfigError: Unknown method or option, or a value out of range.
        ModelError: The base model lacks the parts that the method needs.
    """
    return editor_class(method)(base, make_options(method, options))  # type: ignore[no-any-return]
