"""Editing methods by name. Listing them and checking their options imports neither torch nor any method."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from elder.errors import ConfigError


@dataclass(frozen=True)
class Method:
    """Where a method lives: `editor`, `options` and `training` (if its editor is trained) are `module:Class`."""

    name: str
    editor: str
    options: str
    summary: str
    training: str | None = None


def _entry(name: str, room: str, stem: str, summary: str, trainable: bool = False) -> Method:
    """A method whose files are `elder/editors/ROOM/NAME.py` and `NAME_options.py`, with the classes STEMEditor, ..."""
    home = f"elder.editors.{room}.{name.replace('-', '_')}"
    training = f"{home}_options:{stem}Training" if trainable else None
    return Method(name, f"{home}:{stem}Editor", f"{home}_options:{stem}Options", summary, training)


_ENTRIES = (
    _entry(
        "elder", "mixture", "Elder",
        "ELDER as published (AAAI 2025): mixture of LoRAs, guided routing, Hamming deferral",
    ),
    _entry(
        "elder-plus", "mixture", "ElderPlus",
        "our ELDER: replay, a calibrated continuous gate, key-routed mixture; forgets less, defers better",
    ),
    _entry(
        "melo", "codebook", "Melo",
        "MELO (2024): a low-rank block for each batch, looked up by clusters of keys at the prompt's end",
    ),
    _entry(
        "rome", "weights", "Rome",
        "ROME (2022): one fact at a time, exactly, by a rank-one change of one block",
    ),
    _entry(
        "memit", "weights", "Memit",
        "MEMIT (2023): batches of facts by least squares over several blocks, earlier ones preserved",
    ),
    _entry(
        "emmet", "weights", "Emmet",
        "EMMET (2024): batches of facts exactly, or regularised as MEMIT does",
    ),
    _entry(
        "alphaedit", "weights", "AlphaEdit",
        "AlphaEdit (2025): batches of facts inside the directions that ordinary text hardly uses",
    ),
    _entry(
        "ultraedit", "gradient", "UltraEdit",
        "UltraEdit (2025): normalised gradients and one regression; no training, no subject",
    ),
    _entry(
        "mend", "gradient", "Mend",
        "MEND (2022): a trained network turns gradients into changes, which add up",
        trainable=True,
    ),
    _entry(
        "malmen", "gradient", "Malmen",
        "MALMEN (2024): as MEND, the changes of many facts reconciled by a regression",
        trainable=True,
    ),
)  # fmt: skip

METHODS: Mapping[str, Method] = types.MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every method by name."""

TRAINABLE: Mapping[str, str] = types.MappingProxyType({e.name: e.training for e in _ENTRIES if e.training})
"""Methods whose editor is trained (`elder train-editor`) -> the options of the training."""


def method(name: str) -> Method:
    """The entry of a method.

    Raises:
        ConfigError: No method has this name; close names are suggested.
    """
    if name not in METHODS:
        raise ConfigError(f"editor.method: unknown method '{name}'{suggest(name, METHODS)}")
    return METHODS[name]


def editor_class(name: str) -> type[Any]:
    """The class of a method (imports torch)."""
    return _fetch(method(name).editor)


def options_class(name: str) -> type[Any]:
    """The options of a method, a pydantic model (does not import torch)."""
    return _fetch(method(name).options)


def make_options(name: str, values: Mapping[str, Any]) -> Any:
    """Typed options of a method from plain values.

    Raises:
        ConfigError: Unknown keys, wrong types or impossible values; all of them at once.
    """
    return _typed(options_class(name), name, values)


def training_class(name: str) -> type[Any]:
    """The options of the training of a method's editor, a pydantic model (does not import torch)."""
    return _fetch(TRAINABLE[name])


def make_training(name: str, values: Mapping[str, Any]) -> Any:
    """Typed options of a method's training from plain values.

    Raises:
        ConfigError: The method is not trained; or unknown keys, wrong types or impossible values, all of them at once.
    """
    if name not in TRAINABLE:
        raise ConfigError(f"editor.method: '{name}' is not trained{suggest(name, TRAINABLE)}")
    return _typed(_fetch(TRAINABLE[name]), name, values)


def _typed(cls: type[Any], name: str, values: Mapping[str, Any]) -> Any:
    from pydantic import ValidationError

    from elder.options.messages import details_of, path_of, sentence

    try:
        return cls.model_validate(dict(values))
    except ValidationError as error:
        problems = []
        for details in details_of(error):
            key = ".".join(path_of(details))
            unknown = details["type"] == "extra_forbidden"
            text = f"'{name}' has no such option{suggest(key, cls.model_fields)}" if unknown else sentence(details, cls)
            problems.append(f"editor.{key}: {text}")
    raise ConfigError(problems)


def suggest(name: str, known: Iterable[str]) -> str:
    """The tail of an error about an unknown name: the close ones, and all there are."""
    names = list(known)
    close = difflib.get_close_matches(str(name), names, n=2)
    hint = f"; did you mean {' or '.join(repr(c) for c in close)}?" if close else ""
    return f"{hint} (known: {', '.join(sorted(names))})"


def _fetch(target: str) -> type[Any]:
    module, _, attribute = target.partition(":")
    return getattr(import_module(module), attribute)  # type: ignore[no-any-return]
