"""The cluster file against Ray's own schema, which rejects unknown keys, and against our own rules."""

from __future__ import annotations

import copy
import importlib.metadata
import importlib.util
import json
import re
import tomllib
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


def test_rays_own_launcher_prepares_the_file(cluster: dict[str, Any]) -> None:
    """Further than the schema: what `ray up` does before it asks AWS for anything."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    prepared = prepare_config(copy.deepcopy(cluster))
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0
    assert prepared["docker"]["image"] == cluster["docker"]["image"]


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


def test_a_wheel_is_installed_with_the_tested_versions(cluster: dict[str, Any]) -> None:
    mounts = cluster["file_mounts"]
    assert mounts["/home/ray/elder-dist"] == "dist"
    lock = FILE.parent / mounts["/home/ray/elder.lock"]
    assert f"ray=={importlib.metadata.version('ray')}" in lock.read_text(encoding="utf-8").splitlines()
    (command,) = cluster["setup_commands"]
    assert command == 'pip install --quiet -c /home/ray/elder.lock "$(ls /home/ray/elder-dist/elder-*.whl)[all]"'
    extras = tomllib.loads((FILE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert "all" in extras["optional-dependencies"]
    assert "g++" not in FILE.read_text(encoding="utf-8"), "runs compile nothing"


def test_nothing_large_is_mounted(cluster: dict[str, Any]) -> None:
    """Ray reads every file below a mount, whatever rsync leaves out: the working tree with its environment is GBs."""
    for local in cluster["file_mounts"].values():
        assert local in ("dist", "requirements.lock", "~/.ray/auth_token")


def test_the_token_is_on_every_node_and_asked_for(cluster: dict[str, Any]) -> None:
    (place,) = (remote for remote, local in cluster["file_mounts"].items() if local == "~/.ray/auth_token")
    options = cluster["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    assert f"--env RAY_AUTH_TOKEN_PATH={place}" in options
    assert "--dashboard-host=127.0.0.1" in cluster["head_start_ray_commands"][-1]


def test_the_nodes_have_an_image_with_a_driver_for_todays_torch_and_guard_their_role(cluster: dict[str, Any]) -> None:
    for kind in cluster["available_node_types"].values():
        node = kind["node_config"]
        assert re.fullmatch(r"resolve:ssm:/aws/service/deeplearning/ami/x86_64/[\w./-]+/latest/ami-id", node["ImageId"])
        assert node["MetadataOptions"] == {"HttpTokens": "required"}
        assert node["IamInstanceProfile"]["Name"] in ("elder-head", "elder-worker")
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])


def test_no_secrets() -> None:
    text = FILE.read_text(encoding="utf-8")
    assert not re.search(
        r"AKIA[0-9A-Z]{16}|aws_secret|SECRET_ACCESS|password|ssh_private_key|token\s*[:=]\s*['\"]?[0-9a-f]{16}",
        text,
        re.IGNORECASE,
    )
