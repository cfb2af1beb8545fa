"""Base models by name: what there is, and making one where it can be watched."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from elder.jobs.shared.wiring import home

if TYPE_CHECKING:
    from rich.console import Console

WORLDS = ("world:small", "world:tiny")


def known_models() -> list[dict[str, Any]]:
    """The sources that need no file: name, summary, licence, bytes to fetch, and the directory where one is kept."""
    from elder.models.made import find_made
    from elder.models.named import NAMED

    rows: list[dict[str, Any]] = [
        {"name": name, "summary": "generated facts and a small Llama that knows them", "licence": "-", "bytes": 0}
        for name in WORLDS
    ]
    rows += [
        {"name": name, "summary": model.summary, "licence": model.licence, "bytes": model.size}
        for name, model in NAMED.items()
    ]
    for row in rows:
        kept = find_made(row["name"], home())
        row["directory"] = None if kept is None else str(kept)
    return rows


def make_shown(source: str, console: Console) -> Path:
    """Fetch a named model or convert a GGUF file, where that can be watched; one that is here already is found.

    Raises:
        ModelError: It cannot be made.
        UnreachableError: It cannot be fetched.
    """
    from elder.jobs.terminal.display import fetch_progress
    from elder.models.made import ensure_made, ensure_named, find_made
    from elder.models.named import NAMED

    found = find_made(source, home())
    if found is not None:
        return found
    if source not in NAMED:
        console.print(f"{source}: converting it once; later runs find it cached", markup=False, soft_wrap=True)
        return ensure_made(source, home())
    model = NAMED[source]
    console.print(
        f"{source}: fetching {model.summary} ({model.size / 1e6:.0f} MB, {model.licence}) once; later runs find it "
        "cached",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    with fetch_progress(console) as tell:
        return ensure_named(source, home(), tell)
