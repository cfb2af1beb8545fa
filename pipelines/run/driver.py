"""What every run has in common: begun or continued from its record, worked on, published, closed with a report.

A runner does the stages (Ray Train or this process); store and tracker are protocols. Must not know boto3, mlflow,
the command line, or how a method edits.
"""

from __future__ import annotations

import json
import os
import socket
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from elder.errors import ElderError, GateError, RunTakenOver
from elder.pipelines.protocols import Tracker
from elder.pipelines.run.commits import Commit, RunState
from elder.pipelines.run.known import with_known_facts
from elder.pipelines.run.publisher import Publisher
from elder.pipelines.run.result import make_result
from elder.pipelines.run.retry import RetryingStore
from elder.pipelines.run.spec import Event, EventHandler, RunSpec, WorkersFailed
from elder.pipelines.run.trained import pin_trained

Runner = Callable[[RunSpec, EventHandler], None]


class StageRefused(GateError):
    """A gate refused a stage. `result` is the result of the run so far, the refused stage last, not committed."""

    result: Mapping[str, Any] = {}


def drive(
    job: RunSpec,
    tracker: Tracker,
    on_event: EventHandler,
    tags: Mapping[str, str],
    runner: Runner,
    driver: type[Driver],
) -> dict[str, Any]:
    """Begin or continue a job, from its record in the store on.

    Args:
        job: What is to be done; trained editor and known facts are settled here.
        tracker: The record of runs.
        on_event: Receives events for a display.
        tags: Further tags for the tracked run.
        runner: Runs the job.
        driver: Class of what connects runner, store and tracker.

    Raises:
        ElderError: As `run_edit`.
    """
    state = RunState(job.store_factory(), job.config.run_id)
    finished = state.result()
    if finished is None:
        before = state.record() or {}
        job = replace(job, trained=pin_trained(job.config, state.store, before.get("trained")))
    job = with_known_facts(job, state, runner, on_event)
    trained = job.trained.to_dict() if job.trained else None
    state.open(job.config, job.dataset, len(job.edits), trained)  # from here on the run exists
    if finished is not None:
        return finished
    return driver(job, state, tracker, on_event, tags).run(runner)


class Driver(ABC):
    """One call of `run_edit`, once the run record is written. A subclass may change what a run is about."""

    def __init__(
        self, job: RunSpec, state: RunState, tracker: Tracker, on_event: EventHandler, tags: Mapping[str, str]
    ) -> None:
        self.job, self.config, self.tracker, self.on_event = job, job.config, tracker, on_event
        # The publisher runs beside the work and comes back to what failed; everything else had better wait.
        store = RetryingStore(state.store, self.config.tracking.retry_timeout_s, self._note)
        self.state = RunState(store, self.config.run_id)
        self._drivers = state.drivers
        self.refused: Event | None = None
        all_tags = {**self.tags(), **tags}
        self.publisher = Publisher(self.config, state, tracker, self.dataset(), all_tags, self._note)

    def run(self, runner: Runner) -> dict[str, Any]:
        """Start or continue, then bring the record up to date and close the run."""
        self.publisher.start()
        url = self.tracker.url()
        if url:
            self._note(f"watch the run: {url}")
        self.publisher.nudge()  # what an earlier attempt committed and could not log
        try:
            with self._owning():
                self._work(runner)
                return self._close()
        except GateError as error:
            self.publisher.abandon("FAILED")
            refused = StageRefused(str(error))
            refused.result = self.result(None)
            raise refused from error
        except RunTakenOver:
            self.publisher.close()  # the tracked run is the other driver's now
            raise
        except (KeyboardInterrupt, SystemExit):  # Ray's own answer to SIGTERM is SystemExit
            self.publisher.abandon("KILLED")
            raise
        except BaseException:
            self.publisher.abandon("FAILED")
            raise

    @contextmanager
    def _owning(self) -> Iterator[None]:
        """Own the run in the block. When it fails, an older driver that has not noticed may continue.

        All that can be known before is known by then: the older driver stops for this one.
        """
        drivers = self._drivers
        claim = drivers.take(_this_driver())
        self.job, self.publisher.claim = replace(self.job, claim=claim), claim
        older = drivers.older(claim)
        if older:
            self._note(
                f"driver {claim} of this run; if the one before it is alive, it stops within seconds, and its workers "
                f"keep their room until then ({older})"
            )
        try:
            yield
        except RunTakenOver:
            raise
        except BaseException:
            with suppress(ElderError):
                drivers.end(claim)
            raise

    def _work(self, runner: Runner) -> None:
        """Run until every stage is committed. Only failures with no commit between them count together."""
        while (before := len(self.state.commits())) < len(self.job.stages):
            try:
                return runner(self.job, self._hear)
            except WorkersFailed as error:
                if len(self.state.commits()) == before:
                    raise
                self._note(f"stages were committed between the failures, so the workers are started again: {error}")

    def _hear(self, event: Event) -> None:
        """Pass an event on; a commit is logged in the background."""
        if event["kind"] == "committed":
            self.publisher.nudge()
        elif event["kind"] == "refused":
            self.refused = event
        self.on_event(event)

    def _close(self) -> dict[str, Any]:
        commits = self.state.commits()
        missing = len(self.job.stages) - len(commits)
        if missing:
            raise ElderError(f"the workers ended without an error, but {missing} stages are not committed")
        self.state.drivers.check(self.job.claim)
        self.publisher.complete()
        result = self.result(self._register(self.outcome(commits)))
        self.publisher.retrying(lambda: self._report(result, commits))
        self.publisher.retrying(lambda: self.tracker.finish("FINISHED"))
        self.state.finish(result)
        return result

    def _register(self, last: Commit) -> dict[str, Any] | None:
        tracking = self.config.tracking
        name = tracking.register_as
        if not name:
            return None
        tags = {"elder.run_id": self.config.run_id, "elder.state_digest": last.state_digest}
        model = self.publisher.models[last.stage]
        version = self.publisher.retrying(lambda: self.tracker.register(model, name, tracking.alias, tags))
        return {"name": name, "version": version}

    def _report(self, result: Mapping[str, Any], commits: Sequence[Commit]) -> None:
        """Write report, plots and result beside the stages, and show them in the tracker."""
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            (directory / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
            self.write_report(directory, result, commits)
            for path in sorted(p for p in directory.rglob("*") if p.is_file()):
                name = path.relative_to(directory)
                self.state.store.put(self.state.key(f"report/{name.as_posix()}"), path)
                self.tracker.log_artifact(path, (Path("report") / name).parent.as_posix())

    def outcome(self, commits: Sequence[Commit]) -> Commit:
        """The stage whose adapter is what the run was for."""
        return commits[-1]

    @abstractmethod
    def write_report(self, directory: Path, result: Mapping[str, Any], commits: Sequence[Commit]) -> None:
        """Write the report of a run that has ended into a directory."""

    def result(self, registered: Mapping[str, Any] | None) -> dict[str, Any]:
        """The machine-readable result, of what is committed so far."""
        return make_result(self.job, self.state, registered, self.refused)

    def dataset(self) -> dict[str, Any]:
        """Name, digest, source and number of the edits, for the tracker."""
        data = self.config.data
        source, count = data.path or data.source, len(self.job.edits)
        return {"name": data.source, "digest": self.job.dataset, "source": source, "count": count}

    def tags(self) -> dict[str, str]:
        """Tags of the tracked run."""
        return {
            "elder.method": self.config.editor.method,
            "elder.base_model": self.config.model.source,
            "elder.config_digest": self.config.digest(),
            "elder.dataset_digest": self.job.dataset,
            "elder.workers": str(self.config.cluster.workers),
            "elder.sharding": self.job.sharding,
        }

    def _note(self, text: str) -> None:
        self.on_event({"kind": "note", "text": text})


def _this_driver() -> dict[str, str]:
    """What a driver that is taken over tells about the one that did it."""
    started = datetime.now(UTC).isoformat(timespec="seconds")
    return {"host": socket.gethostname(), "process": str(os.getpid()), "started": started}
