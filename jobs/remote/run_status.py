"""The status of a run: the state of its Ray job and the last stage in its store, in one sentence.

Reads the store where it can from here, and says so where it cannot. Imports no torch.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from elder.errors import ElderError
from elder.infra.ray_jobs.server import JobRecord

STORE_KEY, S3_KEY, STAGES_KEY, COMMAND_KEY, SIZE_KEY = (
    "elder.store", "elder.s3", "elder.stages", "elder.command", "elder.stage_size",
)  # fmt: skip
SUITE_FOLDERS = {"compare": "compares", "study": "studies"}  # verbs for suites of runs -> folders in the store
QUIET_MIN = 15.0  # minutes without a commit after which a running job is looked at twice
WORDS = {
    "PENDING": "waiting to start",
    "RUNNING": "running",
    "STOPPED": "stopped",
    "SUCCEEDED": "done",
    "FAILED": "failed",
}


@dataclass(frozen=True)
class RunStatus:
    """Committed stages of a run.

    Attributes:
        readable: Whether the store could be read from here.
        why: Why not.
        stages: Committed stages.
        of: All stages of the run, all trials of the search, or all runs of the comparison or study; 0 when nobody
            knows yet.
        edits: Edits applied by them.
        committed_at: Seconds since the epoch of the last commit, if it says.
        trials: Ended trials of a search, if the run is one.
        runs: Finished runs of a comparison or study, if the run is one; `stages` are then those of all its runs.
    """

    readable: bool = False
    why: str = ""
    stages: int = 0
    of: int = 0
    edits: int = 0
    committed_at: float | None = None
    trials: int | None = None
    runs: int | None = None

    def words(self, now: float) -> str:
        """`stage 3 of 10 committed 2 min ago`."""
        of = f" of {self.of}" if self.of else ""
        if self.trials is not None:
            return f"{self.trials}{of} trials done"
        if self.runs is not None:
            return f"{self.runs}{of} runs done, {self.stages} stages committed"
        if not self.stages:
            return "no stage committed yet"
        ago = f" {duration(now - self.committed_at)} ago" if self.committed_at else ""
        return f"stage {self.stages}{of} committed{ago}"

    def to_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def run_status_of(metadata: Mapping[str, str], run_id: str) -> RunStatus:
    """The committed stages of a run in the store that its job names, as far as they can be read from here."""
    from elder.infra.stores.open import open_store
    from elder.pipelines.run.commits import RunState

    uri, command, known = metadata.get(STORE_KEY), metadata.get(COMMAND_KEY), _number(metadata.get(STAGES_KEY))
    if not uri or command not in ("edit", "train-editor", "tune", *SUITE_FOLDERS):
        return RunStatus(why="the job keeps no stages")
    quick = {"attempts": 2, "connect_timeout_s": 3.0, "read_timeout_s": 10.0}
    try:
        store = open_store(uri, {**_s3(metadata), **quick} if uri.startswith("s3://") else None)
        if not uri.startswith("s3://") and not Path(store.uri).is_dir():
            return RunStatus(why=f"{uri} is not on this machine")
        if command == "tune":
            return RunStatus(True, of=known, trials=_trials(store, run_id))
        if command in SUITE_FOLDERS:
            return _several(store, command, run_id, known)
        state = RunState(store, run_id)
        count, last = state.last_commit()
        size, edits = _number(metadata.get(SIZE_KEY)), state.edit_count()
        of = -(-edits // size) if edits is not None and size else known  # the record of a run counts its edits
        return RunStatus(True, "", count, of, last.edits if last else 0, _seconds(last))
    except ElderError as error:
        return RunStatus(why=str(error).splitlines()[0])
    except ImportError as error:
        return RunStatus(why=f"{error.name or error} is not installed here (pip install {error.name})")


def _s3(metadata: Mapping[str, str]) -> dict[str, Any]:
    try:
        return dict(json.loads(metadata.get(S3_KEY, "{}")))
    except ValueError:
        return {}


def sentence(job: JobRecord, status: RunStatus, now: float | None = None) -> str:
    """`running, stage 3 of 10 committed 2 min ago`."""
    now = time.time() if now is None else now
    state = WORDS.get(job.status, job.status.lower())
    if job.status == "FAILED" and job.exit_code is not None:
        state = f"failed (exit code {job.exit_code})"
    if job.over and job.ended:
        state += f" {duration(now - job.ended)} ago"
    return f"{state}, {status.words(now)}" if status.readable else state


def quiet_warning(job: JobRecord, status: RunStatus, now: float | None = None) -> str | None:
    """A sentence when a running job has committed nothing for long, else None."""
    now = time.time() if now is None else now
    since = status.committed_at or job.started
    untimed = status.trials is not None or status.runs is not None  # nobody reads when their last commit was
    if job.status != "RUNNING" or not status.readable or since is None or untimed:
        return None
    since = max(since, job.started or 0.0)
    if now - since < QUIET_MIN * 60:
        return None
    return f"running, but no commit for {duration(now - since)}: look at the log, and at the cluster's free resources"


def duration(seconds: float) -> str:
    """`40 s`, `2 min`, `3 h 20 min`, `2 d 4 h`."""
    seconds = max(0.0, seconds)
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = int(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min"
    return f"{hours // 24} d {hours % 24} h"


def last_lines(log: str, lines: int = 5) -> list[str]:
    """The last lines of a log that are not empty."""
    return [line.rstrip() for line in log.splitlines() if line.strip()][-lines:]


def _number(text: str | None) -> int:
    """A count from a job's metadata; 0 when there is none."""
    return int(text) if text and re.fullmatch(r"\d{1,9}", text) else 0


def _trials(store: Any, run_id: str) -> int:
    """Ended trials of a search: its record holds one object for each; repeats of the best are named otherwise."""
    return sum(1 for key in store.list(f"tunes/{run_id}/results/") if re.search(r"/\d+\.json$", key))


def _several(store: Any, verb: str, run_id: str, known: int) -> RunStatus:
    """Finished runs of a comparison or study and the stages of all, in one listing; its config says which they are."""
    from elder.pipelines.config.comparison import parse_compare_config
    from elder.pipelines.config.study import parse_study_config

    try:
        text = store.get(f"{SUITE_FOLDERS[verb]}/{run_id}/config.yaml").decode()
    except KeyError:
        return RunStatus(True, of=known, runs=0)
    whole = parse_compare_config(text) if verb == "compare" else parse_study_config(text)
    own = {member.config.run_id for member in whole.members}
    keys = [key.split("/") for key in store.list(f"runs/{run_id}-")]
    found = [parts[2:] for parts in keys if len(parts) > 2 and parts[1] in own]
    done = sum(1 for parts in found if parts == ["result.json"])
    return RunStatus(True, "", sum(1 for parts in found if parts[-1] == "COMMIT.json"), len(own), runs=done)


def _seconds(commit: Any) -> float | None:
    if commit is None or not commit.committed_at:
        return None
    try:
        return datetime.fromisoformat(commit.committed_at).astimezone(UTC).timestamp()
    except ValueError:
        return None
