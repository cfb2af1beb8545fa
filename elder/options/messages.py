"""Errors of pydantic as sentences for users. Imports no torch.

Names, choices and types are read from the JSON schema of the model, so nothing is written twice.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

WORDS = {"string": "text", "integer": "a whole number", "number": "a number", "boolean": "true or false"}

Node = Mapping[str, Any]
"""A part of a JSON schema."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` or nothing, for the end of an error message."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


def details_of(error: ValidationError) -> list[ErrorDetails]:
    """Everything that is wrong, unknown keys first, one thing for each place."""
    first: dict[tuple[str, ...], ErrorDetails] = {}
    for item in error.errors(include_url=False):
        first.setdefault(path_of(item), item)
    return sorted(first.values(), key=lambda item: item["type"] != "extra_forbidden")


def path_of(details: ErrorDetails) -> tuple[str, ...]:
    """Where it is wrong: the keys down to it, without the places in a list."""
    return tuple(part for part in details["loc"] if isinstance(part, str) and part != "[key]")


def sentence(details: ErrorDetails, model: type[BaseModel]) -> str:
    """One thing that is wrong with a value, without its key."""
    given, limits, kind = details["input"], details.get("ctx", {}), details["type"]
    if kind == "extra_forbidden":
        *parents, name = path_of(details)
        known = list(node_at(model, parents)["properties"])
        return f"unknown key{suggestion(name, known) or ' (known: ' + ', '.join(known) + ')'}"
    if kind == "value_error":
        return str(limits["error"])
    if kind == "greater_than_equal":
        return f"{given} is too small, the least is {limits['ge']:g}"
    if kind == "greater_than":
        return f"{given} is too small, it must be greater than {limits['gt']:g}"
    if kind == "less_than_equal":
        return f"{given} is too large, the most is {limits['le']:g}"
    node = node_at(model, path_of(details))
    if kind == "literal_error" and isinstance(given, str):
        choices = (node.get("items") or node)["enum"]
        return f"'{given}' is not one of {', '.join(choices)}{suggestion(given, choices)}"
    inside = " in it" if details["loc"] and isinstance(details["loc"][-1], int) else ""
    wanted = f"one of {', '.join(node['enum'])}" if "enum" in node else expected(node)
    return f"expected {wanted}, found {found(given)}{inside}"


def expected(node: Node) -> str:
    """The value that a part of a schema expects, in words."""
    if node.get("type") == "array":
        return f"a list of {expected(node['items'])}"
    return WORDS.get(node.get("type", ""), "a section of keys")


@cache
def schema_of(model: type[BaseModel]) -> Node:
    """The JSON schema of a model."""
    return model.model_json_schema()


def node_at(model: type[BaseModel], path: Iterable[str]) -> Node:
    """The part of a model's schema under a key, without its being optional."""
    whole = schema_of(model)
    node = whole
    for name in path:
        inner = node.get("properties", {}).get(name, node.get("additionalProperties"))
        node = plain_node(inner if isinstance(inner, Mapping) else {}, whole)
    return node


def plain_node(node: Node, whole: Node) -> Node:
    """A part of a schema without references, and without `or null`, `or its only item`."""
    if "anyOf" in node:
        node = next(one for one in node["anyOf"] if one.get("type") != "null")
    return whole["$defs"][node["$ref"].rpartition("/")[2]] if "$ref" in node else node


def settings_of(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Every setting of a model as (dotted key, type, default, help), in order of declaration."""
    whole = schema_of(model)
    yield from _settings(whole, whole, f"{prefix}." if prefix else "")


def _settings(section: Node, whole: Node, prefix: str) -> Iterator[tuple[str, str, str, str]]:
    for name, written in section["properties"].items():
        node = plain_node(written, whole)
        if "properties" in node:
            yield from _settings(node, whole, f"{prefix}{name}.")
        else:
            optional = " or `null`" if {"type": "null"} in written.get("anyOf", ()) else ""
            yield f"{prefix}{name}", _type(node) + optional, _default(written), written.get("description", "")


def _type(node: Node) -> str:
    choices = node.get("enum") or node.get("items", {}).get("enum")
    text = ", ".join(f"`{choice}`" for choice in choices) if choices else expected(node)
    text = f"list of {text}" if choices and "items" in node else text
    limits = {**node.get("items", {}), **node}
    for name, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤")):
        text += f", {sign} {limits[name]}" if name in limits else ""
    return text


def _default(node: Node) -> str:
    value = node.get("default")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "null" if value is None else str(value)


def found(value: Any) -> str:
    """A value as an error names it."""
    if isinstance(value, Mapping):
        return "a section of keys"
    if isinstance(value, list | tuple):
        return "a list"
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"
