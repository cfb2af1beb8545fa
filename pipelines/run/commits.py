"""What a run leaves in its store: key layout, and the protocol by which a stage becomes visible.

Files of a stage go up under an attempt of their own; one COMMIT object, written only if there is none,
makes them the stage. Readers follow COMMIT only, so an upload that was cut off is never seen. Knows
nothing of editors, clusters or trackers; the store is whatever keeps the protocol of `pipelines.protocols`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from elder.errors import AdapterError, ConfigError, RunTakenOver
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.protocols import Store
from elder.pipelines.run.driver_epochs import DriverEpochs

FORMAT = 1
CONFIG, RECORD, RESULT, COMMIT = "config.yaml", "run.json", "result.json", "COMMIT.json"
UPLOADS = 4  # files of a stage that go up at once
NEW_RUN = "leave run_id out to start a new run"
ADAPTER_FILES = ("adapter.safetensors", "manifest.json")
RESULTS, METRICS = "results.jsonl", "metrics.json"
CONTINUATION = "continuation.safetensors"  # what only a continuation needs, beside an adapter that others fetch


@dataclass(frozen=True)
class Commit:
    """One committed stage, all that is needed to report it and to continue from it.

    Attributes:
        stage: Its number, from 0.
        attempt: Names the upload; files lie under it.
        first: Number of the first edit of the stage.
        edits: Edits applied up to and including this stage.
        state_digest: sha256 of the editor's state after the stage.
        parent: State digest of the stage before; empty for stage 0.
        config_digest: Digest of the run's config.
        files: Name -> {"sha256", "bytes"}.
        base: {"id", "digest"} of the base model.
        metrics: Measured after the stage, over all edits that were measured.
        retention: Entry j is the reliability now on the edits of stage j.
        losses: Training loss of every batch and step.
        timing: Seconds: load_s (of the attempt, if this was its first stage), edit_s, evaluate_s, commit_s.
        world: Workers, sharding and versions; for information, a continuation may differ.
        committed_at: When, in ISO 8601 and UTC, by the committing worker's clock; for people, part of no comparison.
    """

    stage: int
    attempt: str
    first: int
    edits: int
    state_digest: str
    parent: str
    config_digest: str
    files: Mapping[str, Mapping[str, Any]]
    base: Mapping[str, str]
    metrics: Mapping[str, float]
    retention: Sequence[float]
    losses: Sequence[Sequence[float]] = field(default_factory=list)
    timing: Mapping[str, float] = field(default_factory=dict)
    world: Mapping[str, Any] = field(default_factory=dict)
    committed_at: str = field(default="", compare=False)

    def to_json(self) -> bytes:
        """The content of COMMIT.json."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, text: bytes, key: str) -> Commit:
        """Read COMMIT.json.

        Raises:
            AdapterError: It is damaged or of another format.
        """
        try:
            record = json.loads(text)
            if record.pop("format") != FORMAT:
                raise ValueError("another format")
            return cls(**record)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise AdapterError(f"{key} is damaged or was written by another version of elder: {error}") from error


class RunState:
    """The part of a store that belongs to one run.

    Args:
        store: Any store.
        run_id: The run.
    """

    def __init__(self, store: Store, run_id: str) -> None:
        self.store = store
        self.run_id = run_id
        self.root = f"runs/{run_id}"
        self.drivers = DriverEpochs(store, run_id)
        self._commits: dict[str, Commit] = {}  # a commit never changes, so it is read once

    def key(self, name: str) -> str:
        """Key of a file of the run."""
        return f"{self.root}/{name}"

    def stage_key(self, stage: int, name: str) -> str:
        """Key of a file of a stage, such as `COMMIT.json` or `ATTEMPT/manifest.json`."""
        return f"{self.root}/stages/{stage:06d}/{name}"

    def open(
        self, config: StagedConfig, dataset_digest: str, edits: int, trained: Mapping[str, Any] | None = None
    ) -> None:
        """Write down what the run is at its first start; at later starts, check that it is the same.

        Args:
            config: The resolved config.
            dataset_digest: Digest of the data.
            edits: How many edits the stream has.
            trained: Which trained editor the run uses, with its `digest`, if it uses one.

        Raises:
            ConfigError: The run exists with another config, other edits or another trained editor; every difference
                is named.
        """
        record: dict[str, Any] = {"config_digest": config.digest(), "dataset_digest": dataset_digest, "edits": edits}
        if trained is not None:
            record["trained"] = dict(trained)
        if not self.store.create(self.key(CONFIG), config.dump_yaml().encode()):
            self._check_config(config)
        if not self.store.create(self.key(RECORD), _json(record)):
            before = json.loads(self.store.get(self.key(RECORD)))
            if before["dataset_digest"] != dataset_digest:
                raise ConfigError(
                    f"run '{self.run_id}' was started with other edits ({before['edits']} of digest "
                    f"{before['dataset_digest'][:12]}, now {edits} of digest {dataset_digest[:12]}); "
                    f"give back the old data to continue it, or {NEW_RUN}"
                )
            known = before.get("trained")
            if known and trained and known["digest"] != trained["digest"]:
                raise ConfigError(
                    f"editor.trained: run '{self.run_id}' was started with another trained editor (digest "
                    f"{known['digest'][:12]}, now {trained['digest'][:12]}); give back the old one to continue it, or "
                    f"{NEW_RUN}"
                )

    def record(self) -> dict[str, Any] | None:
        """What was written down at the first start; None before it."""
        try:
            return dict(json.loads(self.store.get(self.key(RECORD))))
        except KeyError:
            return None

    def check_same(self, config: StagedConfig) -> None:
        """Check that the run, if it exists, has this config; writes nothing.

        Raises:
            ConfigError: It exists with another one; every difference is named.
        """
        if self.store.exists(self.key(CONFIG)):
            self._check_config(config)

    def _check_config(self, config: StagedConfig) -> None:
        text = self.store.get(self.key(CONFIG)).decode()
        changes = config.changed_since(text, f"config of run {self.run_id}")
        if changes:
            head = f"run '{self.run_id}' exists with another config; undo these changes to continue it, or {NEW_RUN}:"
            raise ConfigError([head, *(f"  {line}" for line in changes)])

    def commits(self) -> list[Commit]:
        """All committed stages in order.

        Raises:
            AdapterError: A stage is missing between others, or does not follow from the one before.
        """
        keys = [k for k in self.store.list(f"{self.root}/stages/") if k.endswith(f"/{COMMIT}")]
        found = [self._read(key) for key in keys]
        parent = ""
        for number, commit in enumerate(found):
            if commit.stage != number:
                raise AdapterError(f"{self.root}: stage {number} is missing though stage {commit.stage} is committed")
            if commit.parent != parent:
                raise AdapterError(f"{self.root}: stage {number} does not follow from stage {number - 1} as committed")
            parent = commit.state_digest
        return found

    def _read(self, key: str) -> Commit:
        if key not in self._commits:
            self._commits[key] = Commit.from_json(self.store.get(key), key)
        return self._commits[key]

    def last_commit(self) -> tuple[int, Commit | None]:
        """How many stages are committed, and the last of them: one listing and one read, for a look from outside."""
        keys = [k for k in self.store.list(f"{self.root}/stages/") if k.endswith(f"/{COMMIT}")]
        return len(keys), Commit.from_json(self.store.get(keys[-1]), keys[-1]) if keys else None

    def edit_count(self) -> int | None:
        """How many edits the run has; None before its first start."""
        record = self.record()
        return None if record is None else int(record["edits"])

    def upload(self, stage: int, attempt: str, files: Iterable[Path]) -> dict[str, dict[str, Any]]:
        """Put files under an attempt; invisible until `commit`. Returns name -> {"sha256", "bytes"}."""
        paths = list(files)
        with ThreadPoolExecutor(UPLOADS) as pool:
            infos = list(pool.map(lambda p: self.store.put(self.stage_key(stage, f"{attempt}/{p.name}"), p), paths))
        return {p.name: {"sha256": i.sha256, "bytes": i.size_bytes} for p, i in zip(paths, infos, strict=True)}

    def commit(self, commit: Commit) -> Commit:
        """Make a stage visible. If somebody else has, theirs counts when it is the same state.

        Returns:
            The commit that counts.

        Raises:
            RunTakenOver: The stage is committed with another state: another driver owns the run.
        """
        key = self.stage_key(commit.stage, COMMIT)
        if self.store.create(key, commit.to_json()):
            return commit
        theirs = Commit.from_json(self.store.get(key), key)
        same = (theirs.state_digest, theirs.parent, theirs.config_digest)
        if same == (commit.state_digest, commit.parent, commit.config_digest):
            return theirs  # our own whose answer was lost, or that of a driver that came to the same state
        raise RunTakenOver(
            f"stage {commit.stage} of run '{self.run_id}' was committed by another attempt ({theirs.attempt}) with "
            f"another state ({theirs.state_digest[:12]}, ours {commit.state_digest[:12]}): another driver owns this "
            "run. Stop one of them; the committed stages are sound, and the same command continues from them"
        )

    def fetch(self, commit: Commit, directory: Path, names: Iterable[str] | None = None) -> Path:
        """Download files of a committed stage, verified against its sha256 list; by default its adapter directory.

        Raises:
            AdapterError: A file is missing or its content is not what was committed.
        """
        directory.mkdir(parents=True, exist_ok=True)
        for name in adapter_files(commit) if names is None else names:
            key = self.stage_key(commit.stage, f"{commit.attempt}/{name}")
            try:
                self.store.download(key, directory / name, sha256=commit.files[name]["sha256"])
            except KeyError as error:
                raise AdapterError(f"{self.store.uri}: {key} is committed but missing") from error
        return directory

    def read_rows(self, commit: Commit) -> list[dict[str, Any]]:
        """The per-edit rows of a committed stage, verified."""
        key = self.stage_key(commit.stage, f"{commit.attempt}/{RESULTS}")
        text = self.store.get(key, sha256=commit.files[RESULTS]["sha256"]).decode()
        return [json.loads(line) for line in text.splitlines()]

    def result(self) -> dict[str, Any] | None:
        """The result of a run that has ended well, or None."""
        try:
            return dict(json.loads(self.store.get(self.key(RESULT))))
        except KeyError:
            return None

    def finish(self, result: Mapping[str, Any]) -> None:
        """Write the result down; the first one is kept."""
        self.store.create(self.key(RESULT), json.dumps(result, indent=1, ensure_ascii=False).encode())

    def adapter_uri(self, commit: Commit) -> str:
        """Where the adapter directory of a stage lies."""
        return f"{self.store.uri.rstrip('/')}/{self.stage_key(commit.stage, commit.attempt)}"


def adapter_files(commit: Commit) -> list[str]:
    """Names of the files that make the adapter directory of a stage: all but what is written beside it."""
    return [name for name in commit.files if name not in (RESULTS, METRICS, CONTINUATION)]


def write_stage_files(directory: Path, rows: Sequence[Mapping[str, Any]], metrics: Mapping[str, Any]) -> list[Path]:
    """Write `results.jsonl` (one row for each measured edit) and `metrics.json`; returns their paths."""
    results, figures = directory / RESULTS, directory / METRICS
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows]
    results.write_text("".join(lines), encoding="utf-8")
    figures.write_bytes(_json(metrics))
    return [results, figures]


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()


def check_same_runs(configs: Iterable[StagedConfig], store: Store) -> None:
    """Refuse runs that exist with another config, before anything is started.

    Raises:
        ConfigError: Every difference of every run.
    """
    problems: list[str] = []
    for config in configs:
        try:
            RunState(store, config.run_id).check_same(config)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
