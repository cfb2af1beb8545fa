"""The JSON schemas by which editors check configs: as strict as elder about keys, and never stricter about ours."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from referencing import Registry, Resource

from elder.pipelines.config.comparison import load_compare_config
from elder.pipelines.config.files import configs_dir, packaged_configs, read_document
from elder.pipelines.config.json_schema import KINDS, config_schema
from elder.pipelines.config.run import kind_of, load_config
from elder.pipelines.config.search import load_tune_config
from elder.pipelines.config.study import load_study_config
from elder.pipelines.config.training import load_train_config

LOAD = {
    "edit": load_config,
    "tune": load_tune_config,
    "compare": load_compare_config,
    "study": load_study_config,
    "training": load_train_config,
}


@pytest.fixture(scope="module")
def registry() -> Registry[Any]:
    """The packaged files under their names."""
    found = ((f"{kind}.json", configs_dir() / "schema" / f"{kind}.json") for kind in KINDS)
    return Registry().with_resources(
        [(name, Resource.from_contents(json.loads(path.read_text(encoding="utf-8")))) for name, path in found]
    )


def wrong(registry: Registry[Any], kind: str, values: Any) -> list[str]:
    """What a schema has against a config."""
    validator = Draft7Validator({"$ref": f"{kind}.json"}, registry=registry)
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(values)]


@pytest.mark.parametrize("kind", KINDS)
def test_packaged_schemas_are_current_and_sound(kind: str) -> None:
    text = (configs_dir() / "schema" / f"{kind}.json").read_text(encoding="utf-8")
    assert text == config_schema(kind), "make docs"
    Draft7Validator.check_schema(json.loads(text))


@pytest.mark.parametrize("name", sorted(packaged_configs()))
def test_packaged_configs_name_their_schema_and_pass_it(name: str, registry: Registry[Any]) -> None:
    kind, path = kind_of(name), packaged_configs()[name]
    head, _, schema = path.read_text(encoding="utf-8").splitlines()[0].partition("=")
    assert head == "# yaml-language-server: $schema"
    assert (path.parent / schema).resolve() == (configs_dir() / "schema" / f"{kind}.json").resolve()
    values = read_document(name).values
    assert wrong(registry, kind, values) == []
    resolved = yaml.safe_load(LOAD[kind](name).dump_yaml())  # every key with its value
    assert wrong(registry, kind, resolved) == []


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("edit", "clustr: {}"),
        ("edit", "stream: {stagesize: 3}"),
        ("edit", "stream: {stage_size: 0}"),
        ("edit", "stream: {stage_size: many}"),
        ("edit", "data: {order: shufled}"),
        ("edit", "editor: {method: memit, rank: 8}"),
        ("edit", "editor: {method: memt}"),
        ("edit", "editor: {ridge: 1}"),
        ("edit", "editor: {seed: 1}"),
        ("edit", "gates: {relability: 0.5}"),
        ("edit", "gates: {reliability: {forces: 0.5}}"),
        ("edit", "gates: {locality: {sames_subject: 0.5}}"),
        ("edit", "gates: {scope: 0.5}"),
        ("edit", "tracking: {s3: {regoin: x}}"),
        ("edit", "tune: {trials: 3}"),
        ("tune", "tune: {trails: 3}"),
        ("tune", "tune: {space: {editor.lr: {loguniforn: [1, 2]}}}"),
        ("tune", "tune: {space: {editor.lrr: {uniform: [1, 2]}}}"),
        ("compare", "compare: {methods: {memit: {rigde: 1}}}"),
        ("compare", "compare: {methods: {mine: {ridge: 1}}}"),
        ("compare", "compare: {methods: {memit: {}}, strategy: one}"),
        ("study", "study: {parts: {a: {axs: layers}}}"),
        ("study", "name: x"),
        ("training", "training: {stepz: 3}"),
        ("training", "training: {}\neditor: {method: memit}"),
        ("training", "training: {}\ngates: {EX: 0.5}"),
    ],
)
def test_a_typo_does_not_pass(kind: str, text: str, registry: Registry[Any]) -> None:
    assert wrong(registry, kind, yaml.safe_load(text))


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("edit", "stream:\nevaluation: {protocols: forced}"),
        ("edit", "editor: {rank: 4}\ngates: {reliability: {forced: 0.5}, locality.generate: 1, perplexity: 30}"),
        (
            "edit",
            "evaluation: {parts: [locality, mention, name, scope, after_answer]}\n"
            "gates: {locality: {mention: {forced: 0.5}, name: 1}, scope.mention: 0.1, fluency: {after_answer: 3}}",
        ),
        ("edit", "cluster: {threads_per_worker: null, gpus_per_worker: 1}"),
        ("tune", "tune: {space: {editor: {lr: {choice: [1, 2]}}, stream.batch_size: {int: [1, 2]}}}"),
        ("compare", "compare: {methods: {memit: null, rome: {statistics: false}, mine: {method: memit, ridge: 1}}}"),
        ("training", "training: {steps: 3}\ngates: {ES: 0.5, validation.GS: 0.1}"),
    ],
)
def test_what_elder_takes_passes(kind: str, text: str, registry: Registry[Any], tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    LOAD[kind](str(tmp_path / "c.yaml"))
    assert wrong(registry, kind, read_document(str(tmp_path / "c.yaml")).values) == []
