"""Editing methods by name. Listing them and checking their options imports neither torch nor any method."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
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
    """The options dataclass of a method (does not import torch)."""
    return _fetch(method(name).options)


def make_options(name: str, values: Mapping[str, Any]) -> Any:
    """Typed options of a method from plain values.

    Raises:
        ConfigError: Unknown keys, wrong types or impossible values; all of them at once.
    """
    return _typed(options_class(name), name, values)


def training_class(name: str) -> type[Any]:
    """The options dataclass of the training of a method's editor (does not import torch)."""
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
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    problems, accepted = [], {}
    for key, value in values.items():
        if key not in known:
            problems.append(f"editor.{key}: '{name}' has no such option{suggest(key, known)}")
            continue
        try:
            accepted[key] = _coerce(value, hints[key])
        except (TypeError, ValueError, OverflowError):
            problems.append(f"editor.{key}: expected {_type_name(hints[key])}, found {value!r}")
    if not problems:
        options = cls(**accepted)
        problems = [f"editor.{problem}" for problem in options.problems()]
        if not problems:
            return options
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


def _coerce(value: Any, kind: Any) -> Any:
    """The value as its declared type; texts such as '1e-4' (which YAML 1.1 leaves as text) become numbers."""
    options = typing.get_args(kind)
    if type(None) in options:
        return None if value is None else _coerce(value, next(o for o in options if o is not type(None)))
    if typing.get_origin(kind) is tuple:
        if isinstance(value, str) or not isinstance(value, Iterable):
            raise TypeError
        return tuple(_coerce(v, options[0]) for v in value)
    if typing.get_origin(kind) is typing.Literal:
        if value not in options:
            raise ValueError
        return value
    if kind is bool:
        if not isinstance(value, bool):
            raise TypeError
        return value
    if kind in (int, float):
        if isinstance(value, bool):
            raise TypeError
        number = float(value)
        if kind is int and number != int(number):
            raise ValueError
        return kind(number)
    if not isinstance(value, kind):
        raise TypeError
    return value


def _type_name(kind: Any) -> str:
    options = typing.get_args(kind)
    if typing.get_origin(kind) is typing.Literal:
        return "one of " + ", ".join(map(str, options))
    if type(None) in options:
        return " or ".join("nothing" if o is type(None) else _type_name(o) for o in options)
    if typing.get_origin(kind) is tuple:
        return f"a list of {_type_name(options[0])}"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}.get(kind, str(kind))
