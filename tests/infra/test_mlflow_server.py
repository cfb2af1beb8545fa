"""A real MLflow server that keeps artifacts in S3: the client needs no S3 access at all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import mlflow.pyfunc
import pytest

import elder
from elder.errors import UnreachableError
from infra.doctor import check
from infra.mlflow_tracker import MlflowTracker, pull, resolve, runs, show
from tests.contracts.tracker import CONFIG, TrackerContract, write_adapter
from tests.infra.servers import ACCESS, mlflow_server

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def server(s3_endpoint: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=s3_endpoint, **keys).create_bucket(Bucket="mlflow-artifacts")
    env = {**ACCESS, "MLFLOW_S3_ENDPOINT_URL": s3_endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    with mlflow_server(tmp_path_factory.mktemp("server"), "s3://mlflow-artifacts/mlf", env) as url:
        yield url


@pytest.fixture(autouse=True)
def no_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client holds no credentials."""
    for name in ACCESS:
        monkeypatch.delenv(name, raising=False)


class TestMlflowServer(TrackerContract):
    """The contract against the server; names are made unique because the server lives for the module."""

    @pytest.fixture
    def tracker(self, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowTracker:
        register = MlflowTracker.register

        def renamed(self: MlflowTracker, model_id: str, name: str, alias: str | None, tags: Any) -> int:
            return register(self, model_id, f"{name}-{tmp_path.name}", alias, tags)

        monkeypatch.setattr(MlflowTracker, "register", renamed)
        return MlflowTracker(server, tmp_path.name)


def test_from_a_run_to_a_pulled_adapter(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    adapter = write_adapter(tmp_path / "adapter", b"weights" * 100_000)
    tracker = MlflowTracker(server, "round trip")
    run = tracker.start("run-rt", "round trip", CONFIG, {})
    tracker.log_metrics({"reliability.generate": 1.0}, 10)
    model_id = tracker.log_adapter(0, adapter, {"reliability.generate": 1.0}, 10)
    assert tracker.register(model_id, "roundtrip", "champion", {}) == 1
    tracker.finish("FINISHED")
    assert tracker.url() == show(server, "run-rt")["url"]
    assert run in (tracker.url() or "")
    assert runs(server, experiment="round trip")[0]["stages"] == 1
    assert resolve("models:/roundtrip@champion", server).artifact_location.startswith("mlflow-artifacts:/")

    directory = pull("models:/roundtrip@champion", tmp_path / "pulled", server)
    assert (directory / "adapter.safetensors").read_bytes() == b"weights" * 100_000
    out, err = capfd.readouterr()
    assert (out, err) == ("", "")

    loaded: list[Any] = []
    monkeypatch.setattr(elder, "load_edited", lambda place, base: loaded.append((place, base)), raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    mlflow.pyfunc.load_model("models:/roundtrip@champion")
    ((place, base),) = loaded
    assert (place / "adapter.safetensors").read_bytes() == b"weights" * 100_000
    assert base == "world:small"


def test_the_doctor_likes_it(server: str, tmp_path: Path) -> None:
    found = {item.name: item for item in check(mlflow=server, cache=tmp_path)}
    assert found["mlflow round trip"].ok, found["mlflow round trip"].detail


def test_a_server_that_goes_away(tmp_path: Path) -> None:
    with mlflow_server(tmp_path, str(tmp_path / "artifacts"), {}) as url:
        tracker = MlflowTracker(url, "x")
        tracker.start("run-1", "demo", {}, {})
    with pytest.raises(UnreachableError, match="does not answer"):
        show(url, "run-1")
