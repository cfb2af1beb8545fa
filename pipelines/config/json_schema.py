"""JSON schemas of the configs, made from their models: an editor completes and checks the YAML by them.

`configs/schema/KIND.json` holds them; a test keeps these files current. What a schema cannot say, such as that two keys
do not go together, is found by `elder validate` only.
"""

from __future__ import annotations

import json
from collections.abc import Container
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import GenerateJsonSchema

from elder.metrics.questions import PROTOCOLS
from elder.pipelines.config.checks import GATES, INHERITED_OPTIONS
from elder.pipelines.config.comparison import CompareSection
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.search import SEARCHABLE, TuneSection
from elder.pipelines.config.space import KINDS as DOMAINS
from elder.pipelines.config.study import StudySection
from elder.pipelines.config.training import METHOD, SCORES, TrainConfig
from elder.registry import METHODS, TRAINABLE, options_class, training_class

Node = dict[str, Any]

KINDS = ("edit", "tune", "compare", "study", "training")
RUN = "edit.json"  # where the other schemas find what they share with it
NUMBER: Node = {"type": "number"}
NULL: Node = {"type": "null"}


class _Untitled(GenerateJsonSchema):
    """Fields without titles, which would repeat their names."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        """Never."""
        return False


def config_schema(kind: str) -> str:
    """The schema of a kind of config as JSON text.

    Args:
        kind: One of `KINDS`.
    """
    run = _run()
    made = {"edit": _run, "tune": _tune, "compare": _compare, "study": _study, "training": _training}[kind]()
    if kind in ("tune", "compare", "study"):
        made["properties"] = {**run["properties"], **made["properties"]}
    if kind != "edit":
        for name, node in made["properties"].items():
            if node == run["properties"].get(name):
                made["properties"][name] = {"$ref": f"{RUN}#/properties/{name}"}
        made["$defs"] = {name: node for name, node in made["$defs"].items() if node != run["$defs"].get(name)}
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"Config for elder: {kind}"}
    return json.dumps(made | head, indent=1, ensure_ascii=False) + "\n"


def _run() -> Node:
    found = _of(RunConfig)
    del found["$defs"]["EditorConfig"]
    found["$defs"] |= _methods()
    found["properties"]["editor"] = {"anyOf": [*_choices("#", "elder-plus"), NULL]}
    found["properties"]["gates"] |= _gates(GATES, PROTOCOLS)
    return found


def _training() -> Node:
    found = _of(TrainConfig)
    del found["$defs"]["EditorConfig"]
    found["$defs"] |= {name: _options(name, training_class(name), ("seed",)) for name in TRAINABLE}
    branches = [_branch("#", name, optional=name == METHOD) for name in TRAINABLE]
    found["properties"]["editor"] = {"anyOf": [*branches, NULL]}
    found["properties"]["gates"] |= _gates(SCORES, ())
    found["required"] = ["training"]
    return found


def _tune() -> Node:
    found = _section("tune", TuneSection)
    numbers: Node = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
    domain = {
        "type": "object",
        "properties": {name: {"type": "array"} if name == "choice" else numbers for name in DOMAINS},
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }
    found["$defs"]["domain"] = {"anyOf": [domain, NULL]}
    one = {"$ref": "#/$defs/domain"}
    options = {name for method in METHODS for name in options_class(method).model_fields} - set(INHERITED_OPTIONS)
    keys = {"editor": sorted(options)}
    for key in SEARCHABLE:
        section, _, name = key.partition(".")
        keys.setdefault(section, []).append(name)
    space = found["$defs"]["TuneSection"]["properties"]["space"]
    space["additionalProperties"] = False
    space["properties"] = {f"{section}.{name}": one for section, names in keys.items() for name in names} | {
        section: {"type": "object", "properties": dict.fromkeys(names, one), "additionalProperties": False}
        for section, names in keys.items()
    }
    return found


def _compare() -> Node:
    found = _section("compare", CompareSection)
    found["$defs"]["CompareSection"]["properties"]["methods"] |= _named_methods()
    return found


def _study() -> Node:
    found = _section("study", StudySection)
    section = found["$defs"]["StudySection"]["properties"]
    section["methods"] |= _named_methods()
    found["required"] = ["study"]
    return found


def _section(name: str, model: type[BaseModel]) -> Node:
    """A run's schema is to get this section."""
    section, reference = _of(model), {"$ref": f"#/$defs/{model.__name__}"}
    inner = section.pop("$defs", {})
    return {
        "type": "object",
        "properties": {name: {"anyOf": [reference, NULL]}},
        "additionalProperties": False,
        "$defs": {**inner, model.__name__: section},
    }


def _of(model: type[BaseModel]) -> Node:
    """A model's schema; a section may be empty, that is null."""
    found = model.model_json_schema(schema_generator=_Untitled)
    for node in (found, *found.get("$defs", {}).values()):
        for name, value in node["properties"].items():
            if "$ref" in value:
                node["properties"][name] = {"anyOf": [{"$ref": value["$ref"]}, NULL]}
    return found


def _methods() -> Node:
    return {name: _options(name, options_class(name), INHERITED_OPTIONS) for name in METHODS}


def _options(name: str, model: type[BaseModel], left_out: Container[str]) -> Node:
    """The section `editor` for a method."""
    options = _of(model)["properties"]
    method = {"const": name, "description": METHODS[name].summary}
    properties = {"method": method, **{key: node for key, node in options.items() if key not in left_out}}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _choices(file: str, default: str = "") -> list[Node]:
    return [_branch(file, name, optional=name == default) for name in METHODS]


def _branch(file: str, name: str, optional: bool) -> Node:
    """One method; `optional` where it need not be named."""
    reference: Node = {"$ref": f"{file}/$defs/{name}" if file == "#" else f"{file}#/$defs/{name}"}
    return reference if optional else {"allOf": [reference], "required": ["method"]}


def _named_methods() -> Node:
    """Options of methods by names; a name that is no method names its method."""
    return {
        "properties": {name: {"anyOf": [NULL, *_choices(RUN, default=name)]} for name in METHODS},
        "additionalProperties": {"anyOf": _choices(RUN)},
    }


def _gates(quantities: tuple[str, ...], protocols: tuple[str, ...]) -> Node:
    """Bounds by quantity, or by quantity and protocol, nested or dotted."""
    if not protocols:
        names = [*quantities, *(f"validation.{name}" for name in quantities)]
        return {"properties": dict.fromkeys(names, NUMBER), "additionalProperties": False}
    nested = {"type": "object", "properties": dict.fromkeys(protocols, NUMBER), "additionalProperties": False}
    bounds: Node = {name: {"anyOf": [NUMBER, nested]} for name in quantities}
    bounds |= {f"{name}.{protocol}": NUMBER for name in quantities for protocol in protocols}
    return {"properties": bounds, "additionalProperties": False}
