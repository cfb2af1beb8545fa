"""A round trip through MLflow that leaves nothing visible. Used by the doctor."""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path

from elder.errors import UnreachableError
from elder.infra.tracking.connection import Connection

EXPERIMENT = "elder-doctor"


def round_trip(tracking_uri: str | Path, size_bytes: int = 1 << 20) -> float:
    """Make a run with a metric and an artifact, read the artifact back, delete the run.

    Returns:
        Seconds that it took.

    Raises:
        UnreachableError: Any step fails, or other bytes come back.
    """
    begun, payload = time.perf_counter(), os.urandom(size_bytes)
    mlflow = Connection(tracking_uri)
    run = mlflow.call("create_run", mlflow.experiment(EXPERIMENT), run_name="doctor")
    run_id = run.info.run_id
    try:
        with tempfile.TemporaryDirectory(prefix="elder-doctor-") as folder:
            sent, back = Path(folder) / "probe.bin", Path(folder) / "back.bin"
            sent.write_bytes(payload)
            mlflow.call("log_metric", run_id, "probe", 1.0)
            mlflow.call("log_artifact", run_id, str(sent), "probe")
            mlflow.fetch(run.info.artifact_uri, "probe/probe.bin", back)
            if back.read_bytes() != payload:
                raise UnreachableError(f"MLflow at {tracking_uri} gave back other bytes than it was given.")
    finally:
        mlflow.call("delete_run", run_id)
    return time.perf_counter() - begun
