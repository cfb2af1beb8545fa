"""A tracker that keeps nothing, for runs without MLflow. It obeys the contract of `pipelines.protocols.Tracker`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class NullTracker:
    """Forgets everything, but hands out the same ids for the same things, as the contract asks."""

    def __init__(self) -> None:
        self._run = ""
        self._versions: dict[str, list[str]] = {}

    def start(
        self, run_id: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None
    ) -> str:
        """The id of the run; no second run exists, so it is the pipeline's own id."""
        self._run = run_id
        return run_id

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Nothing is kept."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """Nothing is kept."""

    def log_dataset(self, name: str, digest: str, source: str, count: int) -> None:
        """Nothing is kept."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Nothing is kept."""

    def log_adapter(
        self, stage: int, directory: Path, metrics: Mapping[str, float], step: int, source: str | None = None
    ) -> str:
        """An id made from run and stage, the same at every call."""
        return self._model_id(stage)

    def logged(self, tables: Sequence[str], stages: Sequence[int]) -> tuple[set[str], dict[int, str]]:
        """All of them: there is nothing to fetch them for."""
        return set(tables), {stage: self._model_id(stage) for stage in stages}

    def _model_id(self, stage: int) -> str:
        return "m-" + hashlib.sha256(f"{self._run}/{stage}".encode()).hexdigest()[:32]

    def register(self, model_id: str, name: str, alias: str | None, tags: Mapping[str, str]) -> int:
        """Versions counted in this process: one for each model id."""
        versions = self._versions.setdefault(name, [])
        if model_id not in versions:
            versions.append(model_id)
        return versions.index(model_id) + 1

    def finish(self, status: str) -> None:
        """Nothing is kept."""

    def url(self) -> str | None:
        """There is no page."""
        return None
