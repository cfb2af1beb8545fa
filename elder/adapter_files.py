"""An edited state on disk: `adapter.safetensors` and `manifest.json`, checked by sha256, loadable onto its base.

Knows nothing of stages and stores; they move the directory as it is.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from elder.base import Base, Editor
from elder.errors import AdapterError
from elder.state import state_digest

FORMAT = 1
WEIGHTS, MANIFEST = "adapter.safetensors", "manifest.json"
ENTRIES = ("method", "options", "base", "files", "state_digest")  # what a manifest must hold


def save_adapter(directory: str | Path, editor: Editor, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write an editor's state as an adapter directory; returns the manifest.

    The manifest is written last and by renaming, so a directory with a manifest is whole.

    Args:
        directory: Created if needed; an adapter that is there is replaced.
        editor: Whose state is written. Under sharding only one rank should call this; `base.digest` must have been
            asked for on all ranks before.
        extra: More entries for the manifest, such as run id and stage.
    """
    chat = chat_record(editor.base)
    record = {
        **({} if chat is None else {"chat": chat}),
        "method": editor.method,
        "options": editor.options.model_dump(),
        "edits": editor.edits_applied,
        **(extra or {}),
    }
    return write_directory(directory, editor.state_dict(), editor.base, record)


def chat_record(base: Base) -> dict[str, Any] | None:
    """How prompts go through a base's chat template, for a manifest; None: they do not."""
    return None if base.chat is None else {"system": base.chat.system}


def write_directory(
    directory: str | Path, tensors: Mapping[str, Tensor], base: Base, record: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a state with its manifest: what `save_adapter` does, also for trained editors.

    Args:
        directory: Created if needed; what is there is replaced.
        tensors: The state.
        base: The model it belongs to.
        record: Further entries of the manifest; `method` and `options` among them.
    """
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).unlink(missing_ok=True)
    state = {name: tensor.contiguous() for name, tensor in tensors.items()}
    save_file(state, str(folder / WEIGHTS))
    manifest = {
        "format": FORMAT,
        "base": {
            "source": base.source,
            "revision": base.revision,
            "digest": base.digest,
            "architecture": type(base.model).__name__,
            "dtype": str(base.model.dtype).removeprefix("torch."),
        },
        "state_digest": state_digest(state),
        "files": {WEIGHTS: _fingerprint(folder / WEIGHTS)},
        "versions": {name: _version(name) for name in ("torch", "transformers", "safetensors", "elder")}
        | {"python": platform.python_version()},
        **record,
    }
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)
    return manifest


def load_manifest(directory: str | Path) -> dict[str, Any]:
    """The manifest of an adapter directory.

    Raises:
        AdapterError: There is none, it cannot be read, or it is of a later format.
    """
    path = Path(directory) / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"'{directory}' is no adapter: it has no {MANIFEST}") from None
    except (OSError, ValueError) as error:
        raise AdapterError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(manifest, dict):
        raise AdapterError(f"'{path}' is no manifest: expected a JSON object, found {type(manifest).__name__}")
    if manifest.get("format") != FORMAT:
        raise AdapterError(f"'{path}' has format {manifest.get('format')}, this version of elder reads format {FORMAT}")
    missing = [name for name in ENTRIES if name not in manifest]
    if missing:
        raise AdapterError(f"'{path}' is damaged: it lacks {', '.join(missing)}; pull the adapter again")
    return manifest


def verify(directory: str | Path) -> dict[str, Any]:
    """Check every file of an adapter directory against its manifest; returns the manifest.

    Raises:
        AdapterError: A file is missing or differs.
    """
    manifest = load_manifest(directory)
    for name, expected in manifest["files"].items():
        path = Path(directory) / name
        if not path.is_file():
            raise AdapterError(f"'{path}' is missing; pull the adapter again")
        if _fingerprint(path)["sha256"] != expected["sha256"]:
            raise AdapterError(f"'{path}' is damaged: its sha256 differs from the manifest's; pull the adapter again")
    return manifest


def load_state(directory: str | Path) -> dict[str, Tensor]:
    """The verified state of an adapter directory.

    Raises:
        AdapterError: As `verify`.
    """
    verify(directory)
    return read_weights(directory)


def read_weights(directory: str | Path) -> dict[str, Tensor]:
    """The tensors of an adapter directory, not verified."""
    return load_file(str(Path(directory) / WEIGHTS))


def _fingerprint(path: Path) -> dict[str, Any]:
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            hasher.update(chunk)
    return {"sha256": hasher.hexdigest(), "bytes": path.stat().st_size}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
