"""One Ray cluster for all tests that only need one; tests that kill drivers start their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.infra.conftest import bucket, s3_access, s3_endpoint  # noqa: F401  # fixtures of the S3 server


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A local Ray cluster as a run would start it for itself; runs inside the tests join it."""
    from elder.pipelines.cluster.ray_train import connection, worker_environment
    from tests.pipelines.fakes import make_config

    cluster = make_config(cluster={"workers": 2, "address": "local", "sharding": "none"}).cluster
    with connection(cluster, worker_environment(cluster), lambda event: None):
        yield
