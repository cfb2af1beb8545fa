"""Tells the tracker what a search has recorded: one run for the search, one below it for each trial.

Everything it logs is in the store, and every call may be repeated; a tracker that is away for a while delays
the record, not the trials. Must not know MLflow or Ray.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from elder.pipelines.config.objective import better
from elder.pipelines.protocols import Tracker
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.publisher import BackgroundLog
from elder.pipelines.search.records import FAILED, FINISHED, PRUNED
from elder.pipelines.search.trials import Trials

STATUS = {FINISHED: "FINISHED", PRUNED: "KILLED", FAILED: "FAILED"}


class TunePublisher(BackgroundLog):
    """Shows a search and its trials.

    Args:
        trials: What is known of the search.
        tracker_factory: Makes a tracker; one is used for the search, one for its trials in turn.
        dataset: Name, digest, source and number of the edits.
        tags: Further tags of the search.
        note: Receives a sentence when the tracker does not answer.
    """

    def __init__(
        self,
        trials: Trials,
        tracker_factory: Callable[[], Tracker],
        dataset: Mapping[str, Any],
        tags: Mapping[str, str],
        note: Callable[[str], None],
    ) -> None:
        done = f"All trials are recorded under {trials.state.store.uri}", "trials"
        super().__init__(tracker_factory(), trials.config.run.tracking.retry_timeout_s, note, done)
        self._trials, self._config, self._child = trials, trials.config, tracker_factory()
        self._dataset, self._tags = dict(dataset), dict(tags)
        self._parent_id = ""
        self._logged: dict[str, tuple[str, int]] = {}  # name -> status and number of stages, as they were logged

    def start(self) -> None:
        """Open the tracked search.

        Raises:
            UnreachableError: The tracker does not answer: better known before the work than after it.
        """
        config = self._config
        own = {
            "elder.tune_id": config.tune_id,
            "elder.kind": "tune",
            "elder.method": config.run.editor.method,
            "elder.base_model": config.run.model.source,
            "elder.space": ", ".join(config.space),
            "elder.config_digest": config.digest(),
            "elder.trials": str(config.tune.trials),
        }
        with self._lock:
            given = self._lasting(), {**own, **self._tags}
            self._parent_id = self.tracker.start(config.tune_id, config.run.name, *given)
            self.tracker.log_dataset(**self._dataset)
        url = self.tracker.url()
        if url:
            self._note(f"watch the search: {url}")

    def catch_up(self) -> None:
        """Log every run of which more is known than was logged."""
        records, running = self._trials.snapshot()
        with self._lock:
            for name in sorted({*records, *running}):
                record = records.get(name)
                status = record.status if record is not None else "running"
                count = len(record.metrics) if record is not None else len(self._trials.commits(name))
                if self._logged.get(name) != (status, count):
                    self._log(name, status)
                    self._logged[name] = (status, count)
            self._best_so_far()

    def register(self, name: str) -> dict[str, Any] | None:
        """Log the adapter of the winner's own run and register it, if the config says so."""
        tracking = self._config.run.tracking
        if not tracking.register_as:
            return None
        commit = self._trials.commits(name)[-1]
        state = RunState(self._trials.state.store, self._trials.state.run_id(name))
        tags = {
            "elder.run_id": state.run_id,
            "elder.tune_id": self._config.tune_id,
            "elder.state_digest": commit.state_digest,
        }

        def call() -> int:
            with self._lock, tempfile.TemporaryDirectory() as folder:
                self._open(name, FINISHED)
                directory = state.fetch(commit, Path(folder) / "adapter")
                source = state.adapter_uri(commit)
                model = self._child.log_adapter(commit.stage, directory, commit.metrics, commit.edits, source)
                version = self._child.register(model, str(tracking.register_as), tracking.alias, tags)
                self._child.finish("FINISHED")
                return version

        return {"name": tracking.register_as, "version": self.retrying(call)}

    def artifact(self, path: Path, name: str) -> None:
        """A file of the report beside the search."""
        folder = Path(name).parent.as_posix()
        self.retrying(lambda: self.tracker.log_artifact(path, "" if folder == "." else folder))

    def finish(self, result: Mapping[str, Any]) -> None:
        """The best parameters as tags and figures of the search, and its end."""
        best = result["best"]
        tags = {f"elder.best.{key}": str(value) for key, value in best["parameters"].items()}
        tags |= {"elder.best.trial": best["trial"], "elder.best.run_id": best["run_id"]}
        figures = {"best.objective": best["objective"], "best.mean": best["mean"], "best.spread": best["spread"]}
        figures |= {f"best.{name}": value for name, value in best["metrics"].items()}
        config = self._config

        def call() -> None:
            self.tracker.start(config.tune_id, config.run.name, self._lasting(), tags)
            values = {name: float(value) for name, value in figures.items() if value is not None}
            self.tracker.log_metrics(values, step=len(result["trials"]))
            self.tracker.finish("FINISHED")

        self.retrying(call)

    def _lasting(self) -> dict[str, Any]:
        """The config as parameters of the search, which stay as they were first logged: without what may grow."""
        values = self._config.to_dict()
        return {**values, "tune": {key: value for key, value in values["tune"].items() if key != "trials"}}

    def _open(self, name: str, status: str) -> None:
        config = self._trials.config_of(name)
        tags = {"elder.tune_id": self._config.tune_id, "elder.trial": name, "elder.trial_status": status}
        title = f"{self._config.run.name} {name}"
        self._child.start(config.run_id, title, config.to_dict(), tags, self._parent_id)

    def _log(self, name: str, status: str) -> None:
        """Metrics at step = edits applied, and how it ended."""
        self._open(name, status)
        for commit in self._trials.commits(name):
            timing = {f"time.{key}": value for key, value in commit.timing.items()}
            self._child.log_metrics({**commit.metrics, **timing}, step=commit.edits)
        if status in STATUS:
            self._child.finish(STATUS[status])

    def _best_so_far(self) -> None:
        """The best objective by the number of trials that had ended, as a curve of the search."""
        records, _ = self._trials.snapshot()
        own = [record for name, record in sorted(records.items()) if name.startswith("t")]
        best: float | None = None
        for number, record in enumerate(sorted(own, key=lambda r: r.ended), 1):
            value = record.objective if record.status == FINISHED else None
            if value is not None and (best is None or better(value, best, self._config.tune.mode)):
                best = value
            if best is not None:
                self.tracker.log_metrics({"objective.best": best}, step=number)
