"""The doctor on real clusters: its token, each of its nodes, and what they reach."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from elder.infra.doctor.check import Check
from elder.infra.doctor.checks import check
from tests.cluster.job_head import JobHead
from tests.cluster.nodes import ray_nodes
from tests.infra.servers import free_port

WRONG = "0" * 64
NODE_S = 150.0  # three workers that load torch on a busy machine take longer than the 25 s of users


@pytest.fixture(autouse=True)
def no_ray(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Nothing of another cluster, and no token of this user."""
    for name in ("RAY_ADDRESS", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_AUTH_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def named(lines: list[Check]) -> dict[str, Check]:
    return {line.name: line for line in lines}


def look(address: str, tmp_path: Path, store: str | Path | None = None, **s3: str) -> dict[str, Check]:
    return named(check(store=store, s3=s3, address=address, cache=tmp_path / "cache", node_s=NODE_S))


@pytest.mark.cluster
def test_by_the_job_server(
    head: JobHead, s3_endpoint: str, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = jobs_of(head)
    missing = look(head.address, tmp_path)["ray cluster"]
    assert (missing.ok, "asks for a token and none was found" in missing.detail) == (False, True)
    monkeypatch.setenv("RAY_AUTH_TOKEN", WRONG)
    refused = look(head.address, tmp_path)["ray cluster"]
    assert "refuses the token from RAY_AUTH_TOKEN" in refused.detail
    assert WRONG not in refused.detail
    monkeypatch.setenv("RAY_AUTH_TOKEN", head.token)
    found = look(head.address, tmp_path, f"s3://{bucket}", endpoint_url=s3_endpoint)
    assert found["ray cluster"].detail.endswith("1 nodes, token accepted")
    assert importlib.metadata.version("ray") in found["node versions"].detail
    assert found["node -> store"].detail.endswith(f"{s3_endpoint} answers")
    assert found["node clocks"].word == "ok"
    assert found["node GPUs"].ok
    assert jobs_of(head) == before


def jobs_of(head: JobHead) -> list[str]:
    from elder.infra.ray_jobs.server import connect

    return [job.id for job in connect(head.address, head.environment).jobs()]


@pytest.mark.nodes
def test_by_joining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ray_nodes("one", "two") as cluster:
        missing = look(cluster.address, tmp_path)["ray cluster"]
        assert "asks for a token and none was found" in missing.detail
        monkeypatch.setenv("RAY_AUTH_TOKEN", WRONG)
        assert "refuses the token" in look(cluster.address, tmp_path)["ray cluster"].detail
        monkeypatch.setenv("RAY_AUTH_TOKEN", cluster.environment["RAY_AUTH_TOKEN"])
        store = tmp_path / "store"
        found = look(cluster.address, tmp_path, store)
        assert "3 nodes, token accepted; export RAY_AUTH_MODE=token" in found["ray cluster"].detail
        assert "nodes" not in found, found["nodes"]
        for name in ("node versions", "node elder", "node disk", "node clocks", "node -> directory"):
            assert found[name].word == "ok", found[name]
        assert found["node versions"].detail.startswith("all 3 nodes")
        assert not store.exists()
        monkeypatch.setenv("RAY_AUTH_MODE", "token")
        gone = f"http://127.0.0.1:{free_port()}"
        sick = look(cluster.address, tmp_path, "s3://nowhere", endpoint_url=gone)
        assert sick["node -> store"].word == "FAIL"
        assert gone in sick["node -> store"].detail
