"""Downloads by HTTP that go on after a broken connection, from a real server that knows ranges; errors in our words."""

from __future__ import annotations

from pathlib import Path

import pytest
import requests
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository

from elder.errors import UnreachableError
from elder.infra.tracking import connection as mlflow_connection
from elder.infra.tracking.errors import explain, status_of
from elder.infra.tracking.uri import locate
from tests.infra.servers import FaultyProxy, faulty_proxy

CONTENT = bytes(range(250)) * 1200


@pytest.fixture
def proxy(s3_endpoint: str, bucket: str):  # type: ignore[no-untyped-def]
    """In front of a server that answers requests for a range of bytes: S3 with a file that everybody may read."""
    import boto3

    s3 = boto3.client("s3", endpoint_url=s3_endpoint)
    s3.put_object(Bucket=bucket, Key="file.bin", Body=CONTENT, ACL="public-read")
    with faulty_proxy(s3_endpoint) as found:
        yield found


def fetch(proxy: FaultyProxy, bucket: str, target: Path) -> None:
    mlflow_connection._continued(HttpArtifactRepository(f"{proxy.url}/{bucket}"), "file.bin", target)


def starts(proxy: FaultyProxy) -> list[int]:
    return [int(text.split("bytes=")[1].split("-")[0]) if "bytes=" in text else 0 for text in proxy.asked]


def test_only_what_is_missing_is_asked_for(proxy: FaultyProxy, bucket: str, tmp_path: Path) -> None:
    proxy.faults = ["cut"] * 3
    fetch(proxy, bucket, tmp_path / "file")
    asked = starts(proxy)
    assert (len(asked), asked[0], asked) == (4, 0, sorted(set(asked)))  # each time further on
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_what_an_earlier_process_left_is_not_fetched_again(proxy: FaultyProxy, bucket: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT[:100_000])
    fetch(proxy, bucket, tmp_path / "file")
    assert starts(proxy) == [100_000]
    assert (tmp_path / "file").read_bytes() == CONTENT
    fetch(proxy, bucket, tmp_path / "file")  # nothing is missing: the server says that there is no such range
    assert (tmp_path / "file").read_bytes() == CONTENT


def test_it_gives_up_in_the_end(
    proxy: FaultyProxy, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mlflow_connection, "PAUSE_S", 0.0)
    proxy.faults = ["cut"] * 99
    with pytest.raises(requests.RequestException):
        fetch(proxy, bucket, tmp_path / "file")
    assert len(proxy.asked) == mlflow_connection.CONTINUATIONS + 1
    assert CONTENT.startswith((tmp_path / "file").read_bytes())


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (MlflowException("API request to endpoint /x failed with error code 401 != 200. Response body: ''"), 401),
        (MlflowException("no", error_code=12), None),
        (requests.HTTPError("x", response=type("Answer", (), {"status_code": 403})()), 403),
        (OSError("disk"), None),
    ],
)
def test_the_status_of_a_refusal(error: Exception, status: int | None) -> None:
    assert status_of(error) == status
    assert ("MLFLOW_TRACKING_TOKEN" in explain(error, "http://host")) == (status is not None)


def test_an_address_is_shown_without_its_password() -> None:
    location = locate("https://me:hunter2@host:5000/mlflow")
    assert location.shown == "https://host:5000/mlflow"
    assert locate("http://host:5000").shown == "http://host:5000"


def test_what_is_wrong_with_a_database_is_said_in_our_words(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(UnreachableError, match=r"mlflow.db refuses or does not answer: .*file is not a database"):
        mlflow_connection.Connection(tmp_path / "mlflow.db")
