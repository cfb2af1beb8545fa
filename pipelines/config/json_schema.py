"""JSON schemas of the configs, made from their models: an editor completes and checks the YAML by them.

`configs/schema/KIND.json` holds them; a test keeps these files current. What a schema cannot say, such as that two keys
do not go together, is found by `elder validate` only.
"""

from __future__ import annotations

import json
from collections.abc import Container, Iterable
from typing import Any

from pydantic import BaseModel, create_model
from pydantic.json_schema import GenerateJsonSchema

from elder.ability.tasks import FIGURES
from elder.metrics.figures import SHARES
from elder.metrics.questions import PROTOCOLS
from elder.pipelines.config.checks import GATES, INHERITED_OPTIONS
from elder.pipelines.config.comparison import CompareSection
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.search import SEARCHABLE, TuneSection
from elder.pipelines.config.space import KINDS as DOMAINS
from elder.pipelines.config.study import StudySection
from elder.pipelines.config.training import SCORES, TrainConfig
from elder.registry import METHODS, TRAINABLE, options_class, training_class

Node = dict[str, Any]

KINDS = ("edit", "tune", "compare", "study", "training")
SECTIONS = {"tune": TuneSection, "compare": CompareSection, "study": StudySection}  # beside those of a run
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
    made, run = _schema(kind), _schema("edit")
    if kind != "edit":
        for name, node in made["properties"].items():
            if node == run["properties"].get(name):
                made["properties"][name] = {"$ref": f"{RUN}#/properties/{name}"}
        made["$defs"] = {name: node for name, node in made["$defs"].items() if node != run["$defs"].get(name)}
    head = {"$schema": "http://json-schema.org/draft-07/schema#", "title": f"Config for elder: {kind}"}
    return json.dumps(made | head, indent=1, ensure_ascii=False) + "\n"


def _schema(kind: str) -> Node:
    """The schema of a kind, with all that it shares with others."""
    training = kind == "training"
    section: Any = SECTIONS.get(kind)
    own: dict[str, Any] = {kind: (section, section())} if section else {}
    model = TrainConfig if training else create_model("RunConfig", __base__=RunConfig, **own) if own else RunConfig
    found = _of(model)
    if training:
        methods = {name: _options(name, training_class(name), ("seed",)) for name in TRAINABLE}
    else:
        methods = {name: _options(name, options_class(name), INHERITED_OPTIONS) for name in METHODS}
    found["$defs"] |= methods
    del found["$defs"]["EditorConfig"]
    default = model.model_fields["editor"].default.method
    found["properties"]["editor"] = {"anyOf": [*_choices("#", methods, default), NULL]}
    found["properties"]["gates"] |= _training_gates() if training else _gates()
    if kind == "tune":
        found["$defs"]["domain"] = _domain()
        found["$defs"]["TuneSection"]["properties"]["space"] |= _space({"$ref": "#/$defs/domain"})
    if kind in ("compare", "study"):
        found["$defs"][section.__name__]["properties"]["methods"] |= _named_methods()
    if kind in ("training", "study"):
        found["required"] = [kind]
    return found


def _domain() -> Node:
    numbers: Node = {"type": "array", "items": NUMBER, "minItems": 2, "maxItems": 2}
    kinds = {name: {"type": "array"} if name == "choice" else numbers for name in DOMAINS}
    return {
        "type": ["object", "null"],
        "properties": kinds,
        "additionalProperties": False,
        "minProperties": 1,
        "maxProperties": 1,
    }


def _space(domain: Node) -> Node:
    """Domains by key: dotted, or nested in the sections."""
    options = {name for method in METHODS for name in options_class(method).model_fields} - set(INHERITED_OPTIONS)
    keys = [*(f"editor.{name}" for name in sorted(options)), *SEARCHABLE]
    properties: Node = dict.fromkeys(keys, domain)
    for key in keys:
        section, _, name = key.partition(".")
        nested = properties.setdefault(section, {"type": "object", "properties": {}, "additionalProperties": False})
        nested["properties"][name] = domain
    return {"properties": properties, "additionalProperties": False}


def _of(model: type[BaseModel]) -> Node:
    """A model's schema; a section may be empty, that is null."""
    found = model.model_json_schema(schema_generator=_Untitled)
    for node in (found, *found.get("$defs", {}).values()):
        for name, value in node["properties"].items():
            if "$ref" in value:
                node["properties"][name] = {"anyOf": [{"$ref": value["$ref"]}, NULL]}
    return found


def _options(name: str, model: type[BaseModel], left_out: Container[str]) -> Node:
    """The section `editor` for a method."""
    options = _of(model)["properties"]
    method = {"const": name, "description": METHODS[name].summary}
    properties = {"method": method, **{key: node for key, node in options.items() if key not in left_out}}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _choices(root: str, methods: Iterable[str], default: str = "") -> list[Node]:
    """Sections of one method each; all but `default` have to name theirs."""
    references: dict[str, Node] = {name: {"$ref": f"{root}/$defs/{name}"} for name in methods}
    return [ref if name == default else {"allOf": [ref], "required": ["method"]} for name, ref in references.items()]


def _named_methods() -> Node:
    """Options of methods by names; a name that is no method names its method."""
    return {
        "properties": {name: {"anyOf": [NULL, *_choices(f"{RUN}#", METHODS, name)]} for name in METHODS},
        "additionalProperties": {"anyOf": _choices(f"{RUN}#", METHODS)},
    }


def _training_gates() -> Node:
    names = [*SCORES, *(f"validation.{name}" for name in SCORES)]
    return {"properties": dict.fromkeys(names, NUMBER), "additionalProperties": False}


def _gates() -> Node:
    """Bounds by quantity, or by quantity and protocol."""
    by_protocol = [f"{name}.{protocol}" for name in SHARES for protocol in PROTOCOLS]
    return _bounds([*GATES, *by_protocol, *(f"ability.{name}" for name in FIGURES)])


def _bounds(names: Iterable[str]) -> Node:
    """Numbers under dotted names, which may be nested too."""
    bounds: Node = dict.fromkeys(names, NUMBER)
    inner: dict[str, list[str]] = {}
    for name in bounds:
        head, _, rest = name.partition(".")
        if rest:
            inner.setdefault(head, []).append(rest)
    for head, rests in inner.items():
        nested: Node = {"type": "object"} | _bounds(rests)
        bounds[head] = {"anyOf": [NUMBER, nested]} if head in bounds else nested
    return {"properties": bounds, "additionalProperties": False}
