"""Loading an adapter onto its base model."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from elder.adapter_files import load_manifest, load_state
from elder.base import Base, Editor
from elder.chat import Chat, chat_of
from elder.editors.make import make_editor
from elder.errors import AdapterFileError, ElderError
from elder.models.load import load_base
from elder.redact import redact
from elder.registry import options_class

__all__ = ["load_adapter", "load_edited"]

FOREIGN = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RuntimeError)


def load_adapter(directory: str | Path, base: Base) -> Editor:
    """An editor in the saved state on a base model that is loaded already.

    Prompts go through the chat template if those of its edits did, whatever the base says.

    Raises:
        AdapterFileError: The directory is damaged, the base model is not the one that was edited, or the edits went
            through a chat template that its tokenizer has not.
    """
    manifest, state = load_state(directory)
    if "kind" in manifest:
        raise AdapterFileError(f"'{directory}' is a {manifest['kind']}, no adapter: name it in editor.trained")
    if base.digest != manifest["base"]["digest"]:
        raise AdapterFileError(
            f"'{directory}' was made on {manifest['base']['source']} ({manifest['base']['digest'][:12]}, "
            f"{manifest['base']['dtype']}), not on {base.source} ({base.digest[:12]}, "
            f"{str(base.model.dtype).removeprefix('torch.')}); load it onto the base it was made on"
        )
    try:
        options = options_class(manifest["method"]).former(manifest["options"])
        editor = make_editor(manifest["method"], base.speaking(_chat(manifest, base)), **options)
        editor.load_state_dict(state)
    except ElderError as error:
        raise AdapterFileError(f"'{directory}' cannot be loaded: {error}") from error
    except FOREIGN as error:  # tensors that are what the manifest says, but no state of this method
        raise AdapterFileError(f"'{directory}' holds no state of {manifest['method']}: {error!r}") from error
    return editor


def _chat(manifest: Mapping[str, Any], base: Base) -> Chat | None:
    """The chat template as an adapter was made with it; earlier adapters were made without."""
    kept = manifest.get("chat")
    return None if kept is None else chat_of(base.tokenizer, "both" if kept.get("plain") else "on", kept["system"])


def load_edited(directory: str | Path, base: str | Base | None = None, **options: Any) -> Editor:
    """Load an adapter onto its base model: `load_edited(DIR).model` answers with the new facts.

    Args:
        directory: An adapter directory, from `Editor.save` or `elder pull`.
        base: A loaded base, or where to load it from; default: where the manifest says it came from,
            which a warning names.
        **options: Passed to `load_base` when the base has to be loaded (device, cache_dir, ...).

    Raises:
        AdapterFileError: The directory is damaged, or the base model is not the one that was edited.
        ModelError: The base model cannot be loaded.
    """
    if isinstance(base, Base):
        return load_adapter(directory, base)
    made_on = load_manifest(directory)["base"]
    if base is None:
        warnings.warn(
            f"'{directory}' names its base model, {redact(made_on['source'])!r}, which is loaded now; give base=... to "
            "load it from elsewhere",
            stacklevel=2,
        )
    options = {"dtype": made_on["dtype"], "revision": made_on["revision"] if base is None else None, **options}
    return load_adapter(directory, load_base(base or made_on["source"], **options))
