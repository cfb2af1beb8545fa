"""Errors of MLflow's client in a sentence with a remedy. Plain text; knows no client library."""

from __future__ import annotations

import os
import re

from elder.errors import causes

LOGIN = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")
S3_ACCESS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE", "MLFLOW_S3_ENDPOINT_URL")
REFUSED = ("UNAUTHENTICATED", "PERMISSION_DENIED", "CUSTOMER_UNAUTHORIZED")
MESSAGE_CHARS = 300


def explain(error: Exception, place: str) -> str:
    """One sentence that says what went wrong at an MLflow address and what to do; never a secret.

    Args:
        error: What MLflow's client raised.
        place: The address without user and password.
    """
    if from_s3(error):
        return (
            f"MLflow at {place} keeps artifacts in S3 without passing them on (direct mode: --no-serve-artifacts), so "
            f"this machine must reach S3 itself and could not: {_first_line(error)}. Set AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY (or AWS_PROFILE), and MLFLOW_S3_ENDPOINT_URL for a server other than Amazon's, here "
            f"and on the workers ({_which_are_set(S3_ACCESS)}); or let the server pass artifacts on: "
            "mlflow server --artifacts-destination s3://BUCKET/PREFIX"
        )
    status = status_of(error)
    if status in (401, 403):
        return (
            f"MLflow at {place} refuses us ({status}). Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or "
            f"MLFLOW_TRACKING_TOKEN, of an account that may do this ({_which_are_set(LOGIN)})."
        )
    return (
        f"MLflow at {place} refuses or does not answer: {_first_line(error)}. "
        "Check the server, its permissions and tracking.mlflow; `elder doctor` tries a round trip."
    )


def from_s3(error: BaseException) -> bool:
    """Whether an S3 client raised the error or caused it."""
    return any(type(link).__module__.split(".")[0] in ("botocore", "boto3", "s3transfer") for link in causes(error))


def from_database(error: BaseException) -> bool:
    """Whether the library by which MLflow reaches a database raised the error."""
    return type(error).__module__.split(".")[0] == "sqlalchemy"


def status_of(error: BaseException) -> int | None:
    """The HTTP status of a refusal, if the error has it."""
    for link in causes(error):
        answer = getattr(link, "response", None)
        if (status := getattr(answer, "status_code", None)) is not None:
            return int(status)
        if getattr(link, "error_code", None) in REFUSED:
            return 403 if link.error_code == "PERMISSION_DENIED" else 401  # type: ignore[attr-defined]
        found = re.search(r"failed with error code (\d{3})", str(link))
        if found:
            return int(found.group(1))
    return None


def _which_are_set(names: tuple[str, ...]) -> str:
    return "now set: " + (", ".join(name for name in names if os.environ.get(name)) or "none of them")


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:MESSAGE_CHARS].rstrip(".")
