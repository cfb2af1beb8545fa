"""A real MLflow server that keeps artifacts in S3: the client needs no S3 access at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import boto3
import mlflow.pyfunc
import pytest

import elder
from infra.doctor import check
from infra.elder_pyfunc import ElderModel
from infra.mlflow_tracker import MlflowTracker, pull, resolve, runs, show
from tests.cluster.tiny import make_edits, write_model
from tests.contracts.tracker import CONFIG
from tests.infra.servers import ACCESS, mlflow_server

pytestmark = pytest.mark.cluster


@pytest.fixture(scope="module")
def server(s3_endpoint: str, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    database = Path(shutil.copy(empty_database, tmp_path_factory.mktemp("server")))
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=s3_endpoint, **keys).create_bucket(Bucket="mlflow-artifacts")
    env = {**ACCESS, "MLFLOW_S3_ENDPOINT_URL": s3_endpoint, "AWS_DEFAULT_REGION": "us-east-1"}
    with mlflow_server(database, "s3://mlflow-artifacts/mlf", env) as url:
        yield url


@pytest.fixture(autouse=True)
def no_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client holds no credentials."""
    for name in ACCESS:
        monkeypatch.delenv(name, raising=False)


def test_from_an_edit_to_a_pulled_and_loaded_adapter(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Everything is said twice, the second time by a driver that was started again."""
    editor = elder.make_editor("elder", elder.load_base(str(write_model(tmp_path / "base", "llama")), device="cpu"))
    editor.edit(make_edits(2))
    editor.save(tmp_path / "adapter")
    model_ids = set()
    capfd.readouterr()
    for _ in range(2):
        tracker = MlflowTracker(server, "round trip")
        run = tracker.start("run-1", "round trip", CONFIG, {})
        tracker.log_metrics({"reliability.generate": 1.0}, 2)
        tracker.log_table("per_edit", [{"edit_id": "x"}])
        model_ids.add(tracker.log_adapter(0, tmp_path / "adapter", {"reliability.generate": 1.0}, 2))
        assert tracker.register(min(model_ids), "roundtrip", "champion", {"who": "me"}) == 1
        tracker.finish("FINISHED")
    assert len(model_ids) == 1
    assert tracker.url() == show(server, "run-1")["url"]
    assert run in (tracker.url() or "")
    assert [row["stages"] for row in runs(server, experiment="round trip")] == [1]
    assert resolve("models:/roundtrip@champion", server).artifact_location.startswith("mlflow-artifacts:/")
    directory = pull("models:/roundtrip@champion", tmp_path / "pulled", server)
    assert capfd.readouterr() == ("", "")
    weights = (tmp_path / "adapter" / "adapter.safetensors").read_bytes()
    assert (directory / "adapter.safetensors").read_bytes() == weights

    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    loaded = mlflow.pyfunc.load_model("models:/roundtrip@champion")
    prompts = [edit.prompt for edit in make_edits(4)]
    assert loaded.predict(prompts) == ElderModel(directory).predict(prompts)
    assert loaded.predict(prompts) == ElderModel(tmp_path / "adapter").predict(prompts)


def test_the_doctor_likes_it(server: str, tmp_path: Path) -> None:
    found = {item.name: item for item in check(mlflow=server, cache=tmp_path)}
    assert found["mlflow round trip"].ok, found["mlflow round trip"].detail
