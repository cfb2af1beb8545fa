"""Strict settings: dataclass fields that carry their own documentation, checked against what a user wrote.

Knows nothing of what the settings mean; `pipelines.config.run` declares them, `pipelines.config.files` reads them.
"""

from __future__ import annotations

import difflib
import math
import types
import typing
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields, is_dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    choices: tuple[str, ...] = (),
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
) -> Any:
    """Declare one setting.

    Args:
        default: Its value when nobody sets it; a class or function is called to make it.
        help: One or two sentences for docs/config.md and error messages.
        choices: The texts allowed (for each item, when the setting is a list).
        low: The smallest value allowed.
        high: The largest value allowed.
        above: The value must be greater than this.
    """
    metadata = {"help": help, "choices": choices, "low": low, "high": high, "above": above}
    if callable(default):
        return field(default_factory=default, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Document:
    """What a user wrote, with where every key stands.

    Attributes:
        values: The nested mapping.
        source: How errors name the whole, such as the file's path.
        places: Dotted key -> where it stands, such as `demo.yaml:12` or `command line`.
        raw: Dotted key -> the text of the value, for keys given on the command line.
    """

    values: Mapping[str, Any]
    source: str
    places: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, str] = field(default_factory=dict)

    def at(self, key: str) -> str:
        """How an error names a key: `demo.yaml:12: stream.batch_size`."""
        return f"{self.places.get(key, self.source)}: {key}"


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or nothing, for the end of an error message."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def build(cls: type[T], given: Any, document: Document, problems: list[str], prefix: str = "") -> T:
    """Make a settings dataclass from a mapping; everything wrong is added to `problems`.

    Args:
        cls: A dataclass whose fields were declared with `setting`.
        given: The mapping of this section.
        document: Where the mapping comes from, for messages.
        problems: Receives one sentence for each mistake; wrong keys keep their defaults.
        prefix: Dotted name of the section, empty at the top.
    """
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        problems.append(f"{document.at(prefix)}: expected a section of keys, found {_found(given)}")
        given = {}
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for name in given:
        if name not in known:
            key = _join(prefix, str(name))
            hint = suggestion(str(name), known)
            problems.append(f"{document.at(key)}: unknown key{hint or ' (known: ' + ', '.join(known) + ')'}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    for name, spec in known.items():
        key = _join(prefix, name)
        kind = hints[name]
        if is_dataclass(kind):
            values[name] = build(typing.cast(type, kind), given.get(name), document, problems, key)
        elif name in given:
            value, problem = convert(given[name], kind, spec, document.raw.get(key))
            if problem:
                problems.append(f"{document.at(key)}: {problem}")
            else:
                values[name] = value
    return cls(**values)


def convert(value: Any, kind: Any, spec: Field[Any], raw: str | None = None) -> tuple[Any, str | None]:
    """One value as its declared type, or what is wrong with it."""
    optional, kind = _optional(kind)
    if value is None:
        return (None, None) if optional else (None, f"expected {_expected(kind)}, found nothing")
    if typing.get_origin(kind) is tuple:
        return _list(value, kind, spec)
    if typing.get_origin(kind) in (dict, Mapping, typing.get_origin(Mapping[str, Any])):
        ok = isinstance(value, Mapping)
        return (dict(value), None) if ok else (None, f"expected a section of keys, found {_found(value)}")
    converted = _scalar(value, kind, raw)
    if converted is None:
        return None, f"expected {_expected(kind)}, found {_found(value)}"
    return converted, _outside(converted, spec.metadata)


def _scalar(value: Any, kind: Any, raw: str | None) -> Any:
    """The value as text, whole number, number or truth value; None when it is something else."""
    if kind is str:
        # On the command line `run_id=0042` is text although YAML would read a number.
        text = value if isinstance(value, str) else None if isinstance(value, list | dict) else raw
        return text if text is not None and (text.strip() or text == "") else None
    if kind is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        value = _number(value)
    if kind is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind is float and isinstance(value, int):
        return float(value)
    return value if isinstance(value, kind) and (kind is int or math.isfinite(value)) else None


def _number(text: str) -> float | None:
    """YAML 1.1 reads `1e-4` as text; a number is meant."""
    try:
        return float(text)
    except ValueError:
        return None


def _list(value: Any, kind: Any, spec: Field[Any]) -> tuple[Any, str | None]:
    item_kind = typing.get_args(kind)[0]
    items = [value] if isinstance(value, str) else value
    if not isinstance(items, list | tuple):
        return None, f"expected a list of {_expected(item_kind)}, found {_found(value)}"
    converted = []
    for item in items:
        one = _scalar(item, item_kind, None)
        if one is None:
            return None, f"expected a list of {_expected(item_kind)}, found {_found(item)} in it"
        problem = _outside(one, spec.metadata)
        if problem:
            return None, problem
        converted.append(one)
    if len(set(converted)) < len(converted):
        return None, "the list names something twice"
    return tuple(converted), None


def _outside(value: Any, limits: Mapping[str, Any]) -> str | None:
    """What is wrong with a value of the right type, if anything."""
    if limits["choices"] and value not in limits["choices"]:
        return f"'{value}' is not one of {', '.join(limits['choices'])}{suggestion(str(value), limits['choices'])}"
    if limits["low"] is not None and value < limits["low"]:
        return f"{value} is too small, the least is {limits['low']}"
    if limits["above"] is not None and value <= limits["above"]:
        return f"{value} is too small, it must be greater than {limits['above']}"
    if limits["high"] is not None and value > limits["high"]:
        return f"{value} is too large, the most is {limits['high']}"
    return None


def _optional(kind: Any) -> tuple[bool, Any]:
    if typing.get_origin(kind) in (types.UnionType, typing.Union):
        inner = [part for part in typing.get_args(kind) if part is not type(None)]
        return True, inner[0]
    return False, kind


def _expected(kind: Any) -> str:
    if typing.get_origin(kind) is tuple:
        return f"a list of {_expected(typing.get_args(kind)[0])}"
    return {str: "text", int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a section of keys")


def _found(value: Any) -> str:
    if isinstance(value, Mapping):
        return "a section of keys"
    if isinstance(value, list | tuple):
        return "a list"
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"


def _join(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix else name


def describe(cls: Any, prefix: str = "") -> list[tuple[str, str, str, str]]:
    """Every setting of a dataclass as (dotted key, type, default, help), in order of declaration."""
    rows: list[tuple[str, str, str, str]] = []
    hints = typing.get_type_hints(cls)
    for spec in fields(cls):
        key, kind = _join(prefix, spec.name), hints[spec.name]
        if is_dataclass(kind):
            rows += describe(kind, key)
        else:
            rows.append((key, _type_text(kind, spec), _default_text(spec), spec.metadata["help"]))
    return rows


def _type_text(kind: Any, spec: Field[Any]) -> str:
    optional, inner = _optional(kind)
    limits = spec.metadata
    text = _expected(inner)
    if limits["choices"]:
        listed = "list of " if typing.get_origin(inner) is tuple else ""
        text = listed + ", ".join(f"`{c}`" for c in limits["choices"])
    for name, sign in (("low", "≥"), ("above", ">"), ("high", "≤")):
        if limits[name] is not None:
            text += f", {sign} {limits[name]}"
    return text + (" or `null`" if optional else "")


def _default_text(spec: Field[Any]) -> str:
    value = spec.default_factory() if spec.default_factory is not MISSING else spec.default
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(str(item) for item in value)}]"
    return "null" if value is None else str(value)
