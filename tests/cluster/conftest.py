"""One Ray cluster of each kind for all tests that leave it whole; tests that kill drivers or heads start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.job_head import JobHead, job_head
from tests.cluster.nodes import RayNodes, ray_nodes
from tests.infra.conftest import bucket, database, empty_database, s3_access, s3_endpoint  # noqa: F401  # fixtures


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
    with job_head(cpus=2) as running:
        yield running


@pytest.fixture(scope="session")
def two_nodes() -> Iterator[RayNodes]:
    """A head on which nothing but drivers lives, and two nodes of one CPU."""
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
