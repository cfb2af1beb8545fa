"""What the nodes of a cluster told, as lines: sick nodes are named, healthy ones share a line."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Any

import pytest

from elder.infra.doctor.check import Check
from elder.infra.doctor.report import node_lines

STORE = {"store": "http://s3:1"}


def node(name: str, **changes: Any) -> dict[str, Any]:
    """A healthy node like this machine."""
    versions = {name: importlib.metadata.version(name) for name in ("ray", "torch", "elder")}
    return {
        "node": name,
        "id": name,
        "error": "",
        "gpus_for_ray": 0,
        "python": platform.python_version(),
        "versions": {**versions, **changes.pop("versions", {})},
        "importable": True,
        "gpus": [],
        "gpu_backend": False,
        "programs": {"compiler": True, "ninja": False},
        "free_gb": 55.0,
        "reach": {"http://s3:1": {"ok": True, "error": "", "ahead_s": 0.2}},
        "markers": {"/m": True},
        "time": 100.0,
        **changes,
    }


def lines(*nodes: dict[str, Any]) -> dict[str, list[Check]]:
    found: dict[str, list[Check]] = {}
    for check in node_lines({"nodes": nodes, "between": [99.0, 101.0]}, STORE, "/m"):
        found.setdefault(check.name, []).append(check)
    return found


def test_nodes_that_are_alike_share_a_line() -> None:
    found = lines(node("a"), node("b"), node("c"))
    assert {check.word for checks in found.values() for check in checks} == {"ok"}
    assert {name: len(checks) for name, checks in found.items()} == {
        "node versions": 1,
        "node elder": 1,
        "node GPUs": 1,
        "node disk": 1,
        "node compiler": 1,
        "node -> store": 1,
        "node -> directory": 1,
        "node clocks": 1,
    }
    assert found["node versions"][0].detail.startswith("all 3 nodes: python ")


@pytest.mark.parametrize(
    ("changes", "name", "word", "text"),
    [
        ({"versions": {"ray": "2.59.0"}}, "node versions", "FAIL", "ray 2.59.0"),
        ({"python": "3.10.1"}, "node versions", "FAIL", "python 3.10.1"),
        ({"versions": {"torch": "2.1.0"}}, "node versions", "warn", "torch 2.1.0; here torch "),
        ({"versions": {"ray": None}}, "node versions", "FAIL", "ray none"),
        ({"importable": False}, "node elder", "warn", "cannot be imported"),
        ({"versions": {"elder": "0.0.1"}}, "node elder", "warn", "elder 0.0.1; here "),
        ({"gpus_for_ray": 2.0, "gpus": [["H", 80]], "gpu_backend": True}, "node GPUs", "FAIL", "though Ray has 2"),
        ({"gpus_for_ray": 1.0, "gpus": [["H", 80]]}, "node GPUs", "FAIL", "built without"),
        ({"gpus_for_ray": 2.0, "gpus": [["H", 80]] * 2, "gpu_backend": True}, "node GPUs", "ok", "2 x H, 80 GiB"),
        ({"free_gb": 1.0}, "node disk", "FAIL", "less than 2 GB"),
        (
            {"reach": {"http://s3:1": {"ok": False, "error": "refused", "ahead_s": None}}},
            "node -> store",
            "FAIL",
            "http://s3:1 does not answer: refused",
        ),
        ({"markers": {}}, "node -> directory", "FAIL", "does not see the store's directory"),
        (
            {"reach": {"http://s3:1": {"ok": True, "error": "", "ahead_s": -45.0}}},
            "node clocks",
            "warn",
            "b (b): 45 s behind",
        ),
        (
            {"reach": {"http://s3:1": {"ok": True, "error": "", "ahead_s": 1000.0}}},
            "node clocks",
            "FAIL",
            "1000 s ahead",
        ),
        ({"time": 150.0}, "node clocks", "warn", "49 s ahead"),
    ],
)
def test_the_sick_one_is_named(changes: dict[str, Any], name: str, word: str, text: str) -> None:
    found = lines(node("a"), node("b", **changes))
    (sick,) = (check for check in found[name] if text in check.detail)
    assert sick.word == word
    assert "b (b)" in sick.detail
    assert bool(sick.remedy) == (word != "ok")
    others = [check for checks in found.values() for check in checks if check is not sick]
    assert [check for check in others if check.word != "ok"] == []


def test_a_node_that_does_not_answer() -> None:
    silent = {"node": "b", "id": "b", "error": "no answer within 25 s", "gpus_for_ray": 0}
    found = lines(node("a"), silent)
    assert found["nodes"][0].word == "FAIL"
    assert "b (b): no answer within 25 s" in found["nodes"][0].detail
    assert found["node versions"][0].detail.startswith("a (a): ")


def test_many_names_are_not_all_listed() -> None:
    found = lines(*(node(str(n)) for n in range(5)), *(node(f"x{n}", importable=False) for n in range(7)))
    (told,) = (check for check in found["node elder"] if check.word == "warn")
    assert "and 3 more: cannot be imported" in told.detail
