"""Fixtures of the infra tests: one S3 server for the session, a bucket for each test."""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.servers import ACCESS, mlflow_server, moto

pytest.register_assert_rewrite("tests.contracts.store", "tests.contracts.tracker")


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running moto server."""
    with moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture(scope="session")
def proxied_mlflow(s3_endpoint: str, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server that passes artifacts on to S3; clients need no access to S3. For the whole session."""
    database = Path(shutil.copy(empty_database, tmp_path_factory.mktemp("proxied")))
    with mlflow_server(database, f"s3://{_artifact_bucket(s3_endpoint)}/mlf", _s3_environment(s3_endpoint)) as url:
        yield url


@pytest.fixture(scope="session")
def direct_mlflow(s3_endpoint: str, empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real MLflow server whose clients write artifacts to S3 themselves."""
    database = Path(shutil.copy(empty_database, tmp_path_factory.mktemp("direct")))
    with mlflow_server(database, f"s3://{_artifact_bucket(s3_endpoint)}/mlf", {}, direct=True) as url:
        yield url


def _s3_environment(endpoint: str) -> dict[str, str]:
    return {**ACCESS, "MLFLOW_S3_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}


def _artifact_bucket(endpoint: str) -> str:
    import boto3

    name = f"mlflow-{uuid.uuid4().hex[:12]}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=name)
    return name


@pytest.fixture
def s3_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that moto takes, in the environment of this process, and no other AWS configuration."""
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in ACCESS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")


@pytest.fixture
def bucket(s3_endpoint: str, s3_access: None) -> str:
    """Name of a new empty bucket on the moto server."""
    import boto3

    name = f"test-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_endpoint).create_bucket(Bucket=name)
    return name


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with all its tables and nothing in them; making one takes seconds."""
    from elder.infra.tracking.tracker import Connection

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    Connection(path)
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Path:
    """A new MLflow database of the test's own."""
    return Path(shutil.copy(empty_database, tmp_path / "tracking.db"))
