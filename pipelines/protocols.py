"""What a pipeline asks of the outside world. Implementations live in `infra/`; this file knows none of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class ObjectInfo:
    """One stored object: key below the store's root, size in bytes, sha256 of its content."""

    key: str
    size_bytes: int
    sha256: str


class Store(Protocol):
    """Objects under keys such as `runs/ID/stages/000007/COMMIT.json`.

    Writes are atomic: a reader sees a whole object or none. Transient faults are retried inside.

    Raises (all methods): `elder.errors.UnreachableError` when the store cannot be reached, refuses the
    credentials or refuses the write. Reads of an absent key raise `KeyError`.
    """

    uri: str

    def put(self, key: str, data: bytes | Path) -> ObjectInfo:
        """Write or replace an object; a Path is streamed from disk."""

    def create(self, key: str, data: bytes) -> bool:
        """Write an object only if the key is free, atomically; False when it is taken."""

    def get(self, key: str, sha256: str | None = None) -> bytes:
        """The content; with `sha256` it is verified and a mismatch raises `elder.errors.AdapterError`."""

    def download(self, key: str, path: Path, sha256: str | None = None) -> None:
        """Write the content to a file, which appears whole or not at all; verified like `get`."""

    def exists(self, key: str) -> bool:
        """Whether the key holds an object."""

    def list(self, prefix: str) -> list[str]:
        """All keys that begin with the prefix, sorted."""

    def delete(self, key: str) -> None:
        """Remove an object; removing an absent one is no error."""


class Tracker(Protocol):
    """The record of runs that people look at. Everything may be said twice: a repeated call changes nothing.

    Raises (all methods): `elder.errors.UnreachableError` when the server cannot be reached.
    """

    def start(
        self, run_id: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None
    ) -> str:
        """Open the one tracked run of a pipeline run (found again by tag `elder.run_id`); returns its own id.

        `parent` is such an id: the run is shown below that one, as a trial below its search.
        """

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at `step` = edits applied so far."""

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file (config, report, plot)."""

    def log_dataset(self, name: str, digest: str, source: str, count: int) -> None:
        """Which stream of edits was used."""

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table artifact, such as one row for each edit."""

    def log_adapter(
        self, stage: int, directory: Path, metrics: Mapping[str, float], step: int, source: str | None = None
    ) -> str:
        """Upload a committed adapter directory as a logged model and make it READY; returns its model id.

        A stage that has been logged READY already is returned as it is. `source` is the address at which the run's
        store has the directory; a tracker may keep that instead of a large copy.
        """

    def logged(self, tables: Sequence[str], stages: Sequence[int]) -> tuple[set[str], dict[int, str]]:
        """Which of these the started run has already: names of tables, and stages whose adapter is READY -> model id.

        They need not be logged again. A tracker that keeps nothing needs none of them.
        """

    def register(self, model_id: str, name: str, alias: str | None, tags: Mapping[str, str]) -> int:
        """Register a logged model as a new version of `name` (once), set the alias; returns the version."""

    def finish(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""

    def url(self) -> str | None:
        """Where a person can look at the run."""
