"""MLflow behind the `Tracker` protocol, and what the command line reads back from it.

Uses clients only: no active run, no global tracking address. Knows nothing of editing.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml
from mlflow.entities import (
    Dataset,
    DatasetInput,
    InputTag,
    LoggedModelOutput,
    Metric,
    Param,
    RunTag,
)

from infra import mlflow_read
from infra.adapter_fetch import MANIFEST as MANIFEST_FILE
from infra.adapter_pointer import POINTER, is_too_large, make_pointer
from infra.elder_pyfunc import save_model
from infra.metric_ledger import MetricLedger
from infra.mlflow_connection import Connection
from infra.mlflow_flat import config_text, flatten, metric_name, model_name, table_text
from infra.mlflow_read import MODEL_ID, RUN_ID, STAGE, STAGES, STORED_AT, AdapterRef

BATCH = 100  # MLflow takes at most so many parameters in one call (metrics: 1000)
VERSIONS = "mlflow.modelVersions"
PARENT = "mlflow.parentRunId"
LIMIT_MB = 256.0  # servers that pass artifacts on time out on much larger ones
DIGEST_CHARS = 36  # longest dataset digest that MLflow takes


class MlflowTracker:
    """One pipeline run as one MLflow run, found again by the tag `elder.run_id` after a crash.

    Args:
        tracking_uri: A server's address, a sqlite address, or a path (see `infra.mlflow_uri.locate`).
        experiment: Name of the experiment; made when it is new.
        limit_mb: An adapter above so many MiB stays in the store, if that is S3, and MLflow gets a pointer to it.
        s3: How to reach that store: settings without secrets, for the pointer.

    Raises:
        ConfigError: The address is not understood.
        UnreachableError: Nobody answers there.
    """

    def __init__(
        self,
        tracking_uri: str | Path,
        experiment: str = "elder",
        limit_mb: float = LIMIT_MB,
        s3: Mapping[str, Any] | None = None,
    ) -> None:
        self._mlflow = Connection(tracking_uri)
        self._limit_mb = limit_mb
        self._s3 = {key: value for key, value in (s3 or {}).items() if key != "profile"}  # a name on this machine
        self._experiment_name = experiment
        self._experiment = ""
        self._run = ""
        self._elder_run = ""
        self._name = ""
        self._ledger = MetricLedger(lambda key: [])

    def start(
        self, run_id: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None
    ) -> str:
        """Open the one tracked run of a pipeline run; returns MLflow's id of it.

        The resolved config becomes parameters (nested names joined by dots; those of the first start stay)
        and the artifact `config.yaml`. `parent` is MLflow's id of the run that this one is shown below.
        """
        tags = tags if parent is None else {**tags, PARENT: parent}
        self._experiment = self._mlflow.experiment(self._experiment_name)
        run = mlflow_read.find_run(self._mlflow, run_id, [self._experiment])
        fresh = run is None
        if run is None:
            own = {RUN_ID: run_id, "mlflow.source.name": "elder", "mlflow.source.type": "JOB"}
            run = self._mlflow.call("create_run", self._experiment, tags={**own, **tags}, run_name=name)
        self._run, self._elder_run, self._name = run.info.run_id, run_id, name
        self._ledger = MetricLedger((lambda key: []) if fresh else self._history)
        if not fresh:
            self._mlflow.call("update_run", self._run, status="RUNNING")
            self._mlflow.call("log_batch", self._run, tags=[RunTag(key, value) for key, value in tags.items()])
        known = run.data.params
        params = [Param(key, value) for key, value in flatten(config).items() if key not in known]
        for first in range(0, len(params), BATCH):
            self._mlflow.call("log_batch", self._run, params=params[first : first + BATCH])
        self._log_text("config.yaml", config_text(config, yaml.safe_dump))
        return self._run

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers at `step`; what has been logged at this step with this value is not logged again."""
        self._log_metrics(values, step, model_id=None)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        """A file; logged again, it replaces the first."""
        self._mlflow.call("log_artifact", self._run, str(path), folder or None)

    def log_dataset(self, name: str, digest: str, source: str, count: int) -> None:
        """Which stream of edits was used: as a dataset of the run, with the whole digest as a tag."""
        profile = json.dumps({"edits": count, "sha256": digest})
        dataset = Dataset(name, digest[:DIGEST_CHARS], "elder", json.dumps({"uri": source}), profile=profile)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "edit")])]
        self._mlflow.call("log_inputs", self._run, datasets=inputs)
        self._mlflow.call("set_tag", self._run, "elder.dataset_digest", digest)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table that MLflow's page can show; logged again, it replaces the first."""
        file = name if name.endswith(".json") else f"{name}.json"
        self._log_text(file, table_text(rows))
        tag = "mlflow.loggedArtifacts"
        tables = json.loads(self._mlflow.call("get_run", self._run).data.tags.get(tag, "[]"))
        if {"path": file, "type": "table"} not in tables:
            self._mlflow.call("set_tag", self._run, tag, json.dumps([*tables, {"path": file, "type": "table"}]))

    def log_adapter(
        self, stage: int, directory: Path, metrics: Mapping[str, float], step: int, source: str | None = None
    ) -> str:
        """Upload a committed adapter as a logged model and make it READY; returns its model id.

        A model that a killed driver left PENDING is filled again and completed. A large adapter of which `source`,
        an s3:// address, holds a copy is not uploaded; MLflow gets its manifest and a pointer.
        """
        models = mlflow_read.stage_models(self._mlflow, self._experiment, self._run)
        model = next((m for m in models if m.tags[STAGE] == str(stage) and m.status != "FAILED"), None)
        if model is not None and model.status == "READY":
            return str(model.model_id)
        if model is None:
            model = self._mlflow.call(
                "create_logged_model",
                self._experiment,
                name=f"{model_name(self._name)}-stage-{stage:04d}",
                source_run_id=self._run,
                tags={RUN_ID: self._elder_run, STAGE: str(stage), "elder.edits": str(step)},
                model_type="elder-adapter",
            )
        model_id = str(model.model_id)
        with tempfile.TemporaryDirectory(prefix="elder-model-") as folder:
            content, own = self._content(Path(directory), source, Path(folder) / "pointed")
            tags = {**save_model(Path(folder) / "model", content, model_id, self._run), **own}
            self._mlflow.call("log_model_artifacts", model_id, str(Path(folder) / "model"))
        self._mlflow.call("set_logged_model_tags", model_id, tags)
        self._log_metrics(metrics, step, model_id)
        outputs = self._mlflow.call("get_run", self._run).outputs
        if model_id not in {output.model_id for output in (outputs.model_outputs if outputs else ())}:
            self._mlflow.call("log_outputs", self._run, [LoggedModelOutput(model_id, step)])
        self._mlflow.call("finalize_logged_model", model_id, "READY")
        ready = sum(m.status == "READY" and m.model_id != model_id for m in models) + 1
        self._mlflow.call("set_tag", self._run, STAGES, str(ready))
        return model_id

    def register(self, model_id: str, name: str, alias: str | None, tags: Mapping[str, str]) -> int:
        """Register a logged model as a version of `name`, once; set the alias; returns the version."""
        version = self._registered(model_id, name)
        if version is None:
            version = self._create_version(model_id, name, tags)
        for key, value in tags.items():
            self._mlflow.call("set_model_version_tag", name, str(version), key, value)
        if alias:
            self._mlflow.call("set_registered_model_alias", name, alias, str(version))
        return version

    def finish(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        self._quietly(lambda: self._mlflow.call("set_terminated", self._run, status))

    def url(self) -> str | None:
        """The run's page on a server; None for a sqlite file (see `Location.command`)."""
        return mlflow_read.run_page(self._mlflow, self._experiment, self._run)

    def _content(self, adapter: Path, source: str | None, place: Path) -> tuple[Path, dict[str, str]]:
        """What is uploaded, and further tags: the adapter, or a directory that says where it is."""
        if source is None or not source.startswith("s3://") or not is_too_large(adapter, self._limit_mb):
            return adapter, {}
        place.mkdir()
        shutil.copy(adapter / MANIFEST_FILE, place)
        (place / POINTER).write_text(make_pointer(adapter, source, self._s3).to_json(), encoding="utf-8")
        return place, {STORED_AT: source}

    def _registered(self, model_id: str, name: str) -> int | None:
        if self._mlflow.find("get_registered_model", name) is None:
            self._mlflow.call("create_registered_model", name)
            return None
        versions = self._mlflow.all("search_model_versions", f"name = '{name}'")
        mine = (int(version.version) for version in versions if version.tags.get(MODEL_ID) == model_id)
        return min(mine, default=None)

    def _create_version(self, model_id: str, name: str, tags: Mapping[str, str]) -> int:
        model = self._mlflow.call("get_logged_model", model_id)
        # A server looks models:/ID up itself. Without one MLflow would ask its global address, which is not
        # ours, so the version points at the files and our own tag says which model it is.
        direct = self._mlflow.location.artifacts is not None
        source = model.artifact_location if direct else f"models:/{model_id}"
        own = {**tags, MODEL_ID: model_id}
        run = model.source_run_id
        created = self._quietly(
            lambda: self._mlflow.call("create_model_version", name, source, run, tags=own, model_id=model_id)
        )
        shown = json.loads(model.tags.get(VERSIONS, "[]"))  # what MLflow's page of the logged model links to
        shown.append({"name": name, "version": str(created.version)})
        self._mlflow.call("set_logged_model_tags", model_id, {VERSIONS: json.dumps(shown)})
        return int(created.version)

    def _log_metrics(self, values: Mapping[str, float], step: int, model_id: str | None) -> None:
        now = int(time.time() * 1000)
        points = [self._ledger.point(metric_name(key), float(value), step, now) for key, value in values.items()]
        # A point that is logged again for its model keeps its time, which makes it the same point to MLflow.
        wanted = [point for point in points if point.fresh or model_id is not None]
        metrics = [Metric(p.key, p.value, p.timestamp, step, model_id=model_id, run_id=self._run) for p in wanted]
        if metrics:
            self._mlflow.call("log_batch", self._run, metrics=metrics)
            self._ledger.commit(points)

    def _history(self, key: str) -> list[tuple[int, float, int]]:
        points = self._mlflow.find("get_metric_history", self._run, key) or []
        return [(point.step, point.value, point.timestamp) for point in points]

    def _log_text(self, file: str, text: str) -> None:
        self._mlflow.call("log_text", self._run, text, file)

    def _quietly(self, action: Callable[[], Any]) -> Any:
        """For the two calls that print to the terminal whatever the log level is."""
        with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            return action()


def runs(tracking_uri: str | Path, experiment: str | None = None, limit: int = 20) -> list[dict[str, Any]]:
    """The newest runs made by elder: name, run_id, status, stages, started, experiment, metrics (the last ones)."""
    return mlflow_read.list_runs(Connection(tracking_uri), experiment, limit)


def show(tracking_uri: str | Path, run: str) -> dict[str, Any]:
    """One run with its stages and their metrics.

    Raises:
        InputError: No such run; the message lists those that exist.
    """
    return mlflow_read.show_run(Connection(tracking_uri), run)


def resolve(ref: str, tracking_uri: str | Path) -> AdapterRef:
    """The logged adapter that a reference means (see `infra.mlflow_read.resolve_ref`).

    Raises:
        InputError: Nothing of that name; the message lists what exists.
    """
    return mlflow_read.resolve_ref(Connection(tracking_uri), ref)


def pull(
    ref: str,
    directory: str | Path,
    tracking_uri: str | Path,
    s3: Mapping[str, Any] | None = None,
    on_wait: Callable[[str], None] | None = None,
) -> Path:
    """Download an adapter into a new directory, which appears whole and verified, or not at all.

    What a pull that was cut off has fetched is kept beside the directory; the next one goes on from it.

    Args:
        ref: What to pull (see `infra.mlflow_read.resolve_ref`).
        directory: The directory to make.
        tracking_uri: Where MLflow is.
        s3: Settings for an adapter that lies in S3, over those it was stored with.
        on_wait: Called with a sentence when another process is pulling the same adapter.

    Raises:
        InputError: The directory is not empty, or nothing has that name.
        AdapterError: A file has another sha256 than the manifest says.
        UnreachableError: The download broke off; what is kept is told.
    """
    return mlflow_read.pull_adapter(Connection(tracking_uri), ref, Path(directory), s3, on_wait)
