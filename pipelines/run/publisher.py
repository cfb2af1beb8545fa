"""Tells the tracker what is committed. Nothing else is ever logged, so a driver that dies loses nothing.

Every call may be repeated (the protocol says so), hence: after each commit, and once more at the end, log all
that this process has not logged yet and the tracker does not have from an earlier one. A tracker that fails for a
while delays the record, not the edits. Must not know MLflow or Ray.
"""

from __future__ import annotations

import tempfile
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from elder.errors import RunTakenOver, UnreachableError
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.protocols import Tracker
from elder.pipelines.run.commits import Commit, RunState, adapter_files
from elder.pipelines.run.retry import call_with_retries, first_line


class BackgroundLog(ABC):
    """Keeps a tracker up with what is recorded elsewhere, in a thread of its own.

    Args:
        tracker: Where it is shown.
        timeout_s: For how long a tracker that does not answer is asked again.
        note: Receives a sentence when it does not.
        done: What is safe by then, and what continues while the tracker is away.
    """

    def __init__(self, tracker: Tracker, timeout_s: float, note: Callable[[str], None], done: tuple[str, str]) -> None:
        self.tracker, self._timeout_s, self._note, self._done = tracker, timeout_s, note, done
        self._lock, self._queued = threading.Lock(), threading.Event()
        self._pool = ThreadPoolExecutor(1, "elder-tracker")

    @abstractmethod
    def catch_up(self) -> None:
        """Log all that this process has not logged yet."""

    def nudge(self) -> None:
        """Something new is recorded: log it soon, in the background. Never fails."""
        if not self._queued.is_set():  # one call in the queue logs all that is new when its turn comes
            self._queued.set()
            self._pool.submit(self._try)

    def close(self) -> None:
        """Wait for the background to end."""
        self._pool.shutdown(wait=True)

    def complete(self) -> None:
        """Log everything that is not logged yet.

        Raises:
            UnreachableError: The tracker did not answer at any of several tries; what is recorded stays.
        """
        self.close()
        self.retrying(self.catch_up)

    def abandon(self, status: str) -> None:
        """Log what can be logged of work that ends early; never hides the reason."""
        self.close()
        with suppress(Exception):
            self.catch_up()
        with suppress(Exception):
            self.tracker.finish(status)

    def retrying(self, call: Callable[[], Any]) -> Any:
        """A call to the tracker, tried again after pauses for `tracking.retry_timeout_s`.

        Raises:
            UnreachableError: It failed every time.
        """
        try:
            return call_with_retries(call, self._timeout_s, self._note, "the tracker")
        except UnreachableError as error:
            raise UnreachableError(
                f"{error}\n{self._done[0]}; the same command with this run id will only write the missing record"
            ) from error

    def _try(self) -> None:
        self._queued.clear()
        try:
            self.catch_up()
        except UnreachableError as error:
            self._note(f"the record has to wait, the {self._done[1]} continue: {first_line(error)}")
        except RunTakenOver:
            return  # the stage loop meets it too, and ends the run


class Publisher(BackgroundLog):
    """Shows the commits of one run.

    Args:
        config: The resolved config.
        state: Where commits are read.
        tracker: Where they are shown.
        dataset: Name, digest, source and number of the edits.
        tags: Further tags of the run.
        note: Receives a sentence when the tracker does not answer.

    Attributes:
        claim: Number of this driver, once it has one; when a newer one has taken over, the record is its business.
    """

    def __init__(
        self,
        config: StagedConfig,
        state: RunState,
        tracker: Tracker,
        dataset: Mapping[str, Any],
        tags: Mapping[str, str],
        note: Callable[[str], None],
    ) -> None:
        done = f"All edits are applied and committed under {state.store.uri}", "edits"
        super().__init__(tracker, config.tracking.retry_timeout_s, note, done)
        self.config, self.state = config, state
        self.models: dict[int, str] = {}
        self.claim = 0
        self._dataset, self._tags = dict(dataset), dict(tags)
        self._started = False

    def start(self) -> None:
        """Open the tracked run now, so that its page can be watched.

        Raises:
            UnreachableError: The tracker does not answer: better known before the work than after it.
        """
        with self._lock:
            self._begin()

    def catch_up(self) -> None:
        """Log what the tracker lacks of every committed stage that this process has not logged.

        Raises:
            RunTakenOver: Another driver keeps the record now.
        """
        with self._lock:
            self.state.drivers.check(self.claim)
            self._begin()
            new = [commit for commit in self.state.commits() if commit.stage not in self.models]
            if not new:
                return
            stages = [commit.stage for commit in new if adapter_files(commit)]
            tables, models = self.tracker.logged([_table(commit) for commit in new], stages)
            for commit in new:
                if _table(commit) not in tables and commit.stage not in models:
                    self._log_figures(commit)
                known = models.get(commit.stage)
                self.models[commit.stage] = self._log_adapter(commit) if known is None else known

    def _begin(self) -> None:
        if self._started:
            return
        self.tracker.start(self.config.run_id, self.config.name, self.config.to_dict(), self._tags)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "config.yaml"
            path.write_text(self.config.dump_yaml(), encoding="utf-8")
            self.tracker.log_artifact(path)
        self.tracker.log_dataset(**self._dataset)
        self._started = True

    def _log_figures(self, commit: Commit) -> None:
        """Metrics at step = edits applied, then the table of edits: the table is the sign that both are logged."""
        timing = {f"time.{name}": value for name, value in commit.timing.items()}
        own = commit.edits - commit.first
        if commit.timing.get("edit_s"):
            timing["time.edits_per_s"] = own / commit.timing["edit_s"]
        self.tracker.log_metrics({**commit.metrics, **timing}, step=commit.edits)
        self.tracker.log_table(_table(commit), self.state.read_rows(commit))

    def _log_adapter(self, commit: Commit) -> str:
        """The adapter as a logged model, the last of what is logged of a stage; returns its id."""
        if not adapter_files(commit):
            return ""  # edits that were applied in isolation leave none
        with tempfile.TemporaryDirectory() as folder:
            directory = self.state.fetch(commit, Path(folder) / "adapter")
            source = self.state.adapter_uri(commit)
            return self.tracker.log_adapter(commit.stage, directory, commit.metrics, commit.edits, source)


def _table(commit: Commit) -> str:
    return f"edits/stage-{commit.stage:04d}.json"
