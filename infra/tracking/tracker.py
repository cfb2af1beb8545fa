"""MLflow as a `Tracker`, and what the command line reads back from it.

Uses clients only: no active run, no global tracking address. Knows nothing of editing.
"""

from __future__ import annotations

import json
import re
import shutil
import tempfile
import time
import uuid
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

from elder.errors import AdapterError, InputError
from elder.infra.stores.files import check_digest
from elder.infra.tracking import read as mlflow_read
from elder.infra.tracking.connection import Connection
from elder.infra.tracking.elder_pyfunc import save_model
from elder.infra.tracking.fetch import check_target, fetch_adapter
from elder.infra.tracking.flat import config_text, flatten, metric_name, model_name, table_text
from elder.infra.tracking.ledger import MetricLedger
from elder.infra.tracking.pointer import POINTER, fetch_pointed, is_too_large, make_pointer, read_pointer
from elder.infra.tracking.promote import move_alias, show_model, version_of
from elder.infra.tracking.read import MODEL_ID, PARENT, RUN_ID, STAGE, STAGES, STORED_AT, VERSIONS
from elder.manifest import MANIFEST as MANIFEST_FILE
from elder.redact import redact, redacted

BATCH = 100  # MLflow takes at most so many parameters in one call (metrics: 1000)
LIMIT_MB = 256.0  # servers that pass artifacts on time out on much larger ones
CREATOR = "elder.creator"  # tag by which a driver knows the runs that its own requests made
TABLES = "mlflow.loggedArtifacts"  # tag with the tables that MLflow's page shows
TAG_CHARS = 8000  # longest value of a tag
DIGEST_CHARS = 36  # longest dataset digest that MLflow takes


class MlflowTracker:
    """One pipeline run as one MLflow run, found again by the tag `elder.run_id` after a crash.

    Args:
        tracking_uri: A server's address, a sqlite address, or a path (see `infra.tracking.uri.locate`).
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
        tags = redacted(tags if parent is None else {**tags, PARENT: parent})
        self._experiment = self._mlflow.experiment(self._experiment_name)
        run = mlflow_read.find_run(self._mlflow, run_id, [self._experiment])
        fresh = run is None
        if run is None:
            own = {
                RUN_ID: run_id,
                CREATOR: uuid.uuid4().hex,
                "mlflow.source.name": "elder",
                "mlflow.source.type": "JOB",
            }
            self._mlflow.call("create_run", self._experiment, tags={**own, **tags}, run_name=name)
            run = self._only_run(run_id, own[CREATOR])
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
        dataset = Dataset(name, digest[:DIGEST_CHARS], "elder", json.dumps({"uri": redact(source)}), profile=profile)
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "edit")])]
        self._mlflow.call("log_inputs", self._run, datasets=inputs)
        self._mlflow.call("set_tag", self._run, "elder.dataset_digest", digest)

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """A table that MLflow's page can show; logged again, it replaces the first."""
        file = name if name.endswith(".json") else f"{name}.json"
        self._log_text(file, table_text(rows))
        tables = self._tables()
        if file not in tables:
            text = json.dumps([{"path": name, "type": "table"} for name in (*tables, file)])
            if len(text) <= TAG_CHARS:  # MLflow would cut it off, and then shows no table at all
                self._mlflow.call("set_tag", self._run, TABLES, text)

    def logged(self, tables: Sequence[str], stages: Sequence[int]) -> tuple[set[str], dict[int, str]]:
        """Which tables its page shows, and which stages have a READY model, with its id."""
        models = mlflow_read.stage_models(self._mlflow, self._experiment, self._run) if stages else []
        ready = {int(model.tags[STAGE]): str(model.model_id) for model in models if model.status == "READY"}
        return set(tables) & set(self._tables()), {stage: ready[stage] for stage in stages if stage in ready}

    def _tables(self) -> list[str]:
        text = self._mlflow.call("get_run", self._run).data.tags.get(TABLES, "[]")
        return re.findall(r'"path": "([^"]+)"', text)  # a tag that was cut off is no JSON

    def log_adapter(
        self, stage: int, directory: Path, metrics: Mapping[str, float], step: int, source: str | None = None
    ) -> str:
        """Upload a committed adapter as a logged model and make it READY; returns its model id.

        A model that a killed driver left PENDING is filled again and completed. A large adapter of which `source`,
        an s3:// address, holds a copy is not uploaded; MLflow gets its manifest and a pointer.
        """
        model, models = self._only_model(stage)
        if model is None:
            self._mlflow.call(
                "create_logged_model",
                self._experiment,
                name=f"{model_name(self._name)}-stage-{stage:04d}",
                source_run_id=self._run,
                tags={RUN_ID: self._elder_run, STAGE: str(stage), "elder.edits": str(step)},
                model_type="elder-adapter",
            )
            model, models = self._only_model(stage)
        model_id = str(model.model_id)
        if model.status == "READY":
            return model_id
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

    def _only_run(self, run_id: str, creator: str) -> Any:
        """The oldest run of this id. A request whose answer was lost is sent again, and makes a second one."""
        found = self._mlflow.all("search_runs", [self._experiment], f"tags.`{RUN_ID}` = '{run_id}'")
        first = min(found, key=lambda run: (run.info.start_time, run.info.run_id))
        for run in found:
            if run is not first and run.data.tags.get(CREATOR) == creator:
                self._mlflow.call("delete_run", run.info.run_id)
        return first

    def _only_model(self, stage: int) -> tuple[Any, list[Any]]:
        """The READY model of a stage, or the oldest unfinished one, or None; and the models of all stages.

        Further unfinished ones are left by requests whose answers were lost; they are removed.
        """
        models = mlflow_read.stage_models(self._mlflow, self._experiment, self._run)
        mine = [model for model in models if model.tags[STAGE] == str(stage) and model.status != "FAILED"]
        mine.sort(key=lambda model: (model.status != "READY", model.creation_timestamp, model.model_id))
        for model in mine[1:]:
            if model.status != "READY":
                self._mlflow.call("delete_logged_model", model.model_id)
        return (mine[0] if mine else None), models

    def register(self, model_id: str, name: str, alias: str | None, tags: Mapping[str, str]) -> int:
        """Register a logged model as a version of `name`, once; set the alias; returns the version."""
        version = add_version(self._mlflow, model_id, name, tags)
        if alias:
            move_alias(self._mlflow, name, alias, version, "run", why=f"the end of run {self._elder_run}")
        return version

    def finish(self, status: str) -> None:
        """Close the run: FINISHED, FAILED or KILLED."""
        _quietly(lambda: self._mlflow.call("set_terminated", self._run, status))

    def url(self) -> str | None:
        """The run's page on a server; None for a sqlite file (see `Location.command`)."""
        return mlflow_read.run_page(self._mlflow, self._experiment, self._run)

    def _content(self, adapter: Path, source: str | None, place: Path) -> tuple[Path, dict[str, str]]:
        """The directory to upload, and further tags: the adapter, or a pointer to it."""
        if source is None or not source.startswith("s3://") or not is_too_large(adapter, self._limit_mb):
            return adapter, {}
        place.mkdir()
        shutil.copy(adapter / MANIFEST_FILE, place)
        (place / POINTER).write_text(make_pointer(adapter, source, self._s3).to_json(), encoding="utf-8")
        return place, {STORED_AT: source}

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


def add_version(mlflow: Connection, model_id: str, name: str, tags: Mapping[str, str]) -> int:
    """Register a logged model as a version of `name`, once, with tags; returns the version."""
    version = version_of(mlflow, name, model_id)
    if version is None:
        if mlflow.find("get_registered_model", name) is None:
            mlflow.call("create_registered_model", name)
        version = _create_version(mlflow, model_id, name, tags)
    for key, value in tags.items():
        mlflow.call("set_model_version_tag", name, str(version), key, value)
    return version


def _create_version(mlflow: Connection, model_id: str, name: str, tags: Mapping[str, str]) -> int:
    model = mlflow.call("get_logged_model", model_id)
    # A server looks models:/ID up itself. Without one MLflow would ask its global address, which is not
    # ours, so the version points at the files and our own tag says which model it is.
    direct = mlflow.location.artifacts is not None
    source = model.artifact_location if direct else f"models:/{model_id}"
    own = {**tags, MODEL_ID: model_id}
    run = model.source_run_id
    _quietly(lambda: mlflow.call("create_model_version", name, source, run, tags=own, model_id=model_id))
    versions = mlflow.all("search_model_versions", f"name = '{name}'")
    version, *doubles = sorted(int(v.version) for v in versions if v.tags.get(MODEL_ID) == model_id)
    for double in doubles:  # of a request that was sent again because its answer was lost
        mlflow.call("delete_model_version", name, str(double))
    shown = json.loads(model.tags.get(VERSIONS, "[]"))  # what MLflow's page of the logged model links to
    shown.append({"name": name, "version": str(version)})
    mlflow.call("set_logged_model_tags", model_id, {VERSIONS: json.dumps(shown)})
    return version


def _quietly(action: Callable[[], Any]) -> Any:
    """For the two calls that print to the terminal whatever the log level is."""
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        return action()


def runs(
    tracking_uri: str | Path, experiment: str | None = None, limit: int = 20, trials: bool = False
) -> list[dict[str, Any]]:
    """The newest runs made by elder: name, run_id, status, stages, started, experiment, metrics (last ones), trials.

    With `trials`, the runs below a search are listed too.
    """
    return mlflow_read.list_runs(Connection(tracking_uri), experiment, limit, trials)


def show(tracking_uri: str | Path, run: str) -> dict[str, Any]:
    """One run with its stages and their metrics, or a registered model (`models:/NAME`, or NAME if no run has it).

    Raises:
        InputError: There is neither; the message lists the runs that exist.
    """
    mlflow = Connection(tracking_uri)
    name = run.removeprefix("models:/")
    if name != run:
        return show_model(mlflow, re.split("[/@]", name)[0])
    try:
        return mlflow_read.show_run(mlflow, run)
    except InputError:
        if mlflow.find("get_registered_model", run) is None:
            raise
        return show_model(mlflow, run)


def pull(
    ref: str,
    directory: str | Path,
    tracking_uri: str | Path,
    s3: Mapping[str, Any] | None = None,
    on_wait: Callable[[str], None] | None = None,
    store: str | None = None,
) -> Path:
    """Download an adapter into a new directory, which appears whole and verified, or not at all.

    What a pull that was cut off has fetched is kept beside the directory; the next one continues from it.

    Args:
        ref: What to pull (see `infra.tracking.read.resolve_ref`).
        directory: The directory to make.
        tracking_uri: Where MLflow is.
        s3: Settings for an adapter that lies in S3, over those it was stored with.
        on_wait: Called with a sentence when another process is pulling the same adapter.
        store: The configured store: an adapter that lies in a store is fetched from there, or from that of ELDER_STORE.

    Raises:
        InputError: The directory is not empty, nothing has that name, or it lies in another store.
        AdapterError: A file has another sha256 than the manifest says.
        UnreachableError: The download broke off; the message says how much is kept.
    """
    mlflow, directory = Connection(tracking_uri), check_target(Path(directory))
    adapter = mlflow_read.resolve_ref(mlflow, ref)
    fetch = mlflow_read.fetch_from(mlflow, adapter.artifact_location)
    digest = adapter.manifest_sha256
    if adapter.stored_at is None:
        return fetch_adapter(fetch, directory, ref, digest or adapter.model_id, digest, on_wait)
    with tempfile.TemporaryDirectory(prefix="elder-pointer-") as folder:
        try:
            fetch(POINTER, Path(folder) / POINTER)
        except KeyError as error:
            raise AdapterError(f"{ref} is damaged: its {POINTER} is missing. Pull another stage.") from error
        pointer = read_pointer(Path(folder))
    assert pointer is not None
    check_digest(str(pointer.files[MANIFEST_FILE]["sha256"]), digest or None, f"{ref}: {POINTER}")
    return fetch_pointed(pointer, directory, ref, s3, on_wait, store)
