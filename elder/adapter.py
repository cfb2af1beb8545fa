"""Loading an adapter onto its base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elder.adapter_files import load_manifest, read_weights, verify
from elder.base import Base, Editor
from elder.chat import Chat, chat_of
from elder.editors.make import make_editor
from elder.errors import AdapterError
from elder.models.load import load_base

__all__ = ["load_adapter", "load_edited"]


def load_adapter(directory: str | Path, base: Base) -> Editor:
    """An editor in the saved state on a base model that is loaded already.

    Prompts go through the chat template if those of its edits did, whatever the base says.

    Raises:
        AdapterError: The directory is damaged, or the base model is not the one that was edited.
        ModelError: The edits went through a chat template, and the tokenizer has none.
    """
    manifest = verify(directory)
    if "kind" in manifest:
        raise AdapterError(f"'{directory}' is a {manifest['kind']}, no adapter: name it in editor.trained")
    if base.digest != manifest["base"]["digest"]:
        raise AdapterError(
            f"'{directory}' was made on {manifest['base']['source']} ({manifest['base']['digest'][:12]}, "
            f"{manifest['base']['dtype']}), not on {base.source} ({base.digest[:12]}, "
            f"{str(base.model.dtype).removeprefix('torch.')}); load it onto the base it was made on"
        )
    editor = make_editor(manifest["method"], base.speaking(_chat(manifest, base)), **manifest["options"])
    editor.load_state_dict(read_weights(directory))  # verified above
    return editor


def _chat(manifest: Mapping[str, Any], base: Base) -> Chat | None:
    """The chat template as an adapter was made with it; earlier adapters were made without."""
    told = manifest.get("chat")
    return None if told is None else chat_of(base.tokenizer, "on", told["system"])


def load_edited(directory: str | Path, base: str | Base | None = None, **options: Any) -> Editor:
    """Load an adapter onto its base model: `load_edited(DIR).model` answers with the new facts.

    Args:
        directory: An adapter directory, from `Editor.save` or `elder pull`.
        base: A loaded base, or where to load it from; default: where the manifest says it came from.
        **options: Passed to `load_base` when the base has to be loaded (device, cache_dir, ...).

    Raises:
        AdapterError: The directory is damaged, or the base model is not the one that was edited.
        ModelError: The base model cannot be loaded.
    """
    if isinstance(base, Base):
        return load_adapter(directory, base)
    made_on = load_manifest(directory)["base"]
    options = {"dtype": made_on["dtype"], "revision": made_on["revision"] if base is None else None, **options}
    return load_adapter(directory, load_base(base or made_on["source"], **options))
