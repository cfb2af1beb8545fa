"""The cluster file against Ray's own schema, which rejects unknown keys, and against our own rules."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

FILE = Path(__file__).parents[2] / "ray_cluster.yaml"


@pytest.fixture(scope="module")
def cluster() -> dict[str, Any]:
    return dict(yaml.safe_load(FILE.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.origin is not None
    return dict(json.loads((Path(spec.origin).parent / "autoscaler" / "ray-schema.json").read_text()))


def test_ray_takes_the_file(cluster: dict[str, Any], schema: dict[str, Any]) -> None:
    jsonschema.validate(cluster, schema)


def test_the_schema_would_find_a_typing_error(cluster: dict[str, Any], schema: dict[str, Any]) -> None:
    wrong = copy.deepcopy(cluster)
    wrong["idle_timeout_minuts"] = 10
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        jsonschema.validate(wrong, schema)


def test_the_head_has_no_gpu_and_workers_have(cluster: dict[str, Any]) -> None:
    types = cluster["available_node_types"]
    head = types[cluster["head_node_type"]]
    assert head["resources"] == {"GPU": 0}
    assert head["max_workers"] == 0
    workers = {name: kind for name, kind in types.items() if name != cluster["head_node_type"]}
    assert len(workers) >= 2
    for kind in workers.values():
        assert kind["min_workers"] == 0
        assert 0 < kind["max_workers"] <= cluster["max_workers"]
        assert kind["resources"] == {}


def test_the_image_is_pinned_to_the_installed_ray(cluster: dict[str, Any]) -> None:
    version = importlib.metadata.version("ray")
    assert cluster["docker"]["image"] == f"rayproject/ray:{version}-py311-gpu"


def test_the_package_is_installed_on_every_node(cluster: dict[str, Any]) -> None:
    (target,) = cluster["file_mounts"]
    assert any(f"{target}[all]" in command for command in cluster["setup_commands"])
    assert any("g++" in command and "ninja" in command for command in cluster["setup_commands"])


def test_no_secrets() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert not re.search(
        r"AKIA[0-9A-Z]{16}|aws_secret|SECRET_ACCESS|password|ssh_private_key|token\s*[:=]", text, re.IGNORECASE
    )
