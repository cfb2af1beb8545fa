"""Private parts of MLflow that we use, in one place: an upgrade of MLflow fails here first."""

from __future__ import annotations

from typing import Any

from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from mlflow.utils.rest_utils import augmented_raise_for_status, http_request  # type: ignore[attr-defined]

OUT_OF_RANGE = 416


def artifact_from(repository: HttpArtifactRepository, name: str, have: int) -> Any:
    """The answer of the server with the bytes of an artifact from `have` on; a context manager.

    Its status is 416 when there are none, 206 when it begins there, 200 when the server sends all of it again.

    Raises:
        requests.HTTPError: Any other status.
    """
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    answer = http_request(repository._host_creds, f"/{name}", "GET", stream=True, extra_headers=headers)  # type: ignore[no-untyped-call]
    if answer.status_code != OUT_OF_RANGE:
        augmented_raise_for_status(answer)  # type: ignore[no-untyped-call]
    return answer
