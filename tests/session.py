"""What a session of tests shares: servers, an MLflow database and Ray clusters, started by the first who asks for them.

One of each for all folders, whoever imports what: a fixture that a second `conftest.py` imports is a second one. Tests
that stop a server, kill a driver or a head start their own.
"""

from __future__ import annotations

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.infra.servers import ACCESS, mlflow_server, moto
from tests.infra.swift import SwiftServer, swift

if TYPE_CHECKING:
    from tests.cluster.job_head import JobHead
    from tests.cluster.nodes import RayNodes

FOREIGN = ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_SESSION_TOKEN")


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a running moto server."""
    with moto(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture
def s3_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """Credentials that moto takes, in the environment of this process, and no other AWS configuration."""
    for name in FOREIGN:
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
def swift_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwiftServer]:
    """One Swift for all tests of the session."""
    with swift(tmp_path_factory.mktemp("swift")) as server:
        yield server


@pytest.fixture
def swift_server(swift_session: SwiftServer, monkeypatch: pytest.MonkeyPatch) -> SwiftServer:
    """The session's Swift, running, its keys in the environment of this process and no other AWS configuration."""
    for name in FOREIGN:
        monkeypatch.delenv(name, raising=False)
    for name, value in swift_session.access.items():
        monkeypatch.setenv(name, value)
    swift_session.start()  # a test that stopped it may have failed before it started it again
    return swift_session


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


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster as a run would start it for itself; runs inside the tests join it."""
    from elder.pipelines.cluster.ray_train import connection, worker_environment
    from tests.pipelines.fakes import make_config

    cluster = make_config(cluster={"workers": 2, "address": "local", "sharding": "none"}).cluster
    with connection(cluster, worker_environment(cluster), lambda event: None):
        yield


@pytest.fixture(scope="session")
def head() -> Iterator[JobHead]:
    """A head of two CPUs with dashboard, job server and token."""
    from tests.cluster.job_head import job_head

    with job_head(cpus=2) as running:
        yield running


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[RayNodes]:
    """A head on which nothing but drivers lives, and two nodes of one CPU."""
    from tests.cluster.nodes import ray_nodes

    with ray_nodes("one", "two") as running:
        yield running


@pytest.fixture
def cluster(two_nodes: RayNodes) -> RayNodes:
    """That cluster with its two nodes, whatever the test before has done to them."""
    for name in set(two_nodes.nodes) - {"head", "one", "two"}:
        two_nodes.kill(name)
    for name in ("one", "two"):
        if name not in two_nodes.nodes:
            two_nodes.start(name)
    return two_nodes


def _s3_environment(endpoint: str) -> dict[str, str]:
    return {**ACCESS, "MLFLOW_S3_ENDPOINT_URL": endpoint, "AWS_DEFAULT_REGION": "us-east-1"}


def _artifact_bucket(endpoint: str) -> str:
    import boto3

    name = f"mlflow-{uuid.uuid4().hex[:12]}"
    keys = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing", "region_name": "us-east-1"}
    boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=name)
    return name
