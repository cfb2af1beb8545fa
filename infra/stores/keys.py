"""Which names an object may have. The same rules for every store, so that a run can move between them."""

from __future__ import annotations

from elder.errors import InputError

HIDDEN = ".partial"


def check_key(key: str) -> str:
    """The key, if it may name an object.

    Raises:
        InputError: It is empty, absolute, climbs out of the store, or collides with unfinished files.
    """
    parts = key.split("/")
    hidden = any(part in ("", ".", "..") or part.startswith(HIDDEN) for part in parts)
    if not key or hidden or "\\" in key or not key.isprintable():
        raise InputError(
            f"{key!r} cannot name an object: expected parts divided by single slashes, such as runs/ID/config.yaml, "
            f"none of them empty, '.', '..' or beginning with '{HIDDEN}'"
        )
    return key


def check_prefix(prefix: str) -> str:
    """The prefix, if keys may begin with it; the empty one means all.

    Raises:
        InputError: No key can begin with it.
    """
    if prefix:
        check_key(prefix.removesuffix("/"))
    return prefix
