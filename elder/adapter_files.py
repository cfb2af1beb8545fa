"""An edited state on disk: `adapter.safetensors` and `manifest.json`, checked by sha256, loadable onto its base.

Knows nothing of stages and stores; they move the directory as it is.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from torch import Tensor

from elder.base import Base, Editor
from elder.chat import chat_record
from elder.errors import AdapterFileError
from elder.manifest import FORMAT, MANIFEST, WEIGHTS, fingerprint, load_manifest, verify
from elder.state import state_digest
from elder.tensor_files import read_tensors, write_tensors

__all__ = ["FORMAT", "MANIFEST", "WEIGHTS", "load_manifest", "load_state", "save_adapter", "verify", "write_directory"]


def save_adapter(directory: str | Path, editor: Editor, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write an editor's state as an adapter directory; returns the manifest.

    The manifest is written last and by renaming, so a directory with a manifest is whole.

    Args:
        directory: Created if needed; an adapter that is there is replaced.
        editor: Whose state is written. Under sharding only one rank should call this; `base.digest` must have been
            asked for on all ranks before.
        extra: More entries for the manifest, such as run id and stage.
    """
    chat = chat_record(editor.base.chat)
    record = {
        **({} if chat is None else {"chat": chat}),
        "method": editor.method,
        "options": editor.options.recorded(),
        "edits": editor.edits_applied,
        **(extra or {}),
    }
    return write_directory(directory, editor.state_dict(), editor.base, record)


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
    write_tensors(state, folder / WEIGHTS)
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
        "files": {WEIGHTS: fingerprint(folder / WEIGHTS)},
        "versions": {name: _version(name) for name in ("torch", "transformers", "safetensors", "elder")}
        | {"python": platform.python_version()},
        **record,
    }
    temporary = folder / f".{MANIFEST}.{os.getpid()}"
    temporary.write_text(json.dumps(manifest, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    temporary.replace(folder / MANIFEST)
    return manifest


def load_state(directory: str | Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The manifest of an adapter directory, and the state that it describes.

    Raises:
        AdapterFileError: As `verify`, or the tensors are not those of the manifest.
    """
    manifest = verify(directory)
    path = Path(directory) / WEIGHTS
    state = read_tensors(path, AdapterFileError)
    if state_digest(state) != manifest["state_digest"]:
        raise AdapterFileError(
            f"'{path}' is damaged: its tensors are not those of its manifest (state_digest); pull the adapter again"
        )
    return manifest, state


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
