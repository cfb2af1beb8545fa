"""Reads back from MLflow: runs, their stages, and the adapters that references mean.

Speaks to MLflow through a `Connection` that it is given and does not import mlflow.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from elder.errors import InputError

if TYPE_CHECKING:
    from elder.infra.tracking.connection import Connection
    from elder.infra.tracking.fetch import Fetch

RUN_ID, STAGE, STAGES = "elder.run_id", "elder.stage", "elder.stages"
MODEL_ID, MANIFEST, STORED_AT = "elder.model_id", "elder.manifest_sha256", "elder.stored_at"
PARENT, VERSIONS = "mlflow.parentRunId", "mlflow.modelVersions"
ADAPTER_FOLDER = "data/adapter"
REPORT, RESULT = "report", "result.json"
PAGE = 1000  # runs that one request asks for
LISTED = 10  # how many names an error lists
FORMS = "expected a run id, runs:/ID/stage-0007, models:/NAME/3 or models:/NAME@champion"


@dataclass(frozen=True)
class AdapterRef:
    """A logged adapter.

    Attributes:
        model_id: MLflow's id of the logged model.
        name: Its name.
        run_id: The pipeline run it came from.
        stage: The stage.
        artifact_location: Where its files are.
        manifest_sha256: sha256 of its manifest, as it was when it was uploaded.
        metrics: Its measurements.
        stored_at: Where the store has it, if it was too large for MLflow; else None.
    """

    model_id: str
    name: str
    run_id: str
    stage: int
    artifact_location: str
    manifest_sha256: str | None
    metrics: dict[str, float]
    stored_at: str | None = None


def find_run(mlflow: Connection, run_id: str, experiments: list[str]) -> Any | None:
    """The newest MLflow run of a pipeline run; None when there is none.

    Raises:
        InputError: The id has characters that MLflow cannot search for.
    """
    if not re.fullmatch(r"[\w.:@+ -]+", run_id):
        raise InputError(f"run id {run_id!r}: expected letters, digits and . _ - : @ +")
    if not experiments:
        return None
    text = f"tags.`{RUN_ID}` = '{run_id}'"
    found = mlflow.call("search_runs", experiments, text, max_results=1, order_by=["attributes.start_time DESC"])
    return found[0] if found else None


def stage_models(mlflow: Connection, experiment: str, run: str) -> list[Any]:
    """All logged adapters of an MLflow run, by stage, whatever their status."""
    found = mlflow.all("search_logged_models", [experiment], filter_string=f"source_run_id = '{run}'")
    return sorted((model for model in found if STAGE in model.tags), key=lambda model: int(model.tags[STAGE]))


def run_page(mlflow: Connection, experiment: str, run: str) -> str | None:
    """The address of a run's page; None for a sqlite file."""
    if mlflow.location.artifacts is not None:
        return None
    return f"{mlflow.location.shown}/#/experiments/{experiment}/runs/{run}"


def list_runs(mlflow: Connection, experiment: str | None, limit: int, trials: bool = False) -> list[dict[str, Any]]:
    """The newest runs that elder made; trials of a search are counted with it, and listed only if asked for.

    Raises:
        InputError: No experiment has that name.
    """
    names = _experiments(mlflow)
    if experiment is not None and experiment not in names.values():
        raise InputError(f"no experiment '{experiment}'. There are: {', '.join(sorted(names.values())) or 'none'}")
    ids = [key for key, name in names.items() if experiment in (None, name)]
    if not ids:
        return []
    wanted = f"tags.`{RUN_ID}` != ''" + ("" if trials else f" AND tags.`{PARENT}` IS NULL")
    newest = ["attributes.start_time DESC"]
    found = mlflow.all("search_runs", ids, wanted, limit=limit, max_results=min(limit, PAGE), order_by=newest)
    below = mlflow.all("search_runs", ids, f"tags.`{PARENT}` != ''", max_results=PAGE) if found else []
    count = Counter(run.data.tags[PARENT] for run in below)
    return [{**_summary(run, names), "trials": count[run.info.run_id]} for run in found]


def show_run(mlflow: Connection, run_id: str) -> dict[str, Any]:
    """One run, its stages with their metrics and versions, its trials, its retention matrix.

    Raises:
        InputError: No such run.
    """
    run = _run(mlflow, run_id)
    info = run.info
    models = stage_models(mlflow, info.experiment_id, info.run_id)
    shown = _summary(run, _experiments(mlflow))
    metrics = shown.pop("metrics")
    shown |= {"ended": _when(info.end_time), "mlflow_run_id": info.run_id}
    shown["url"] = run_page(mlflow, info.experiment_id, info.run_id)
    shown["tags"] = {key: value for key, value in sorted(run.data.tags.items()) if not key.startswith("mlflow.")}
    shown["metrics"] = metrics
    shown["stages"] = [_stage(mlflow, model) for model in models]
    shown["trials"] = _trials(mlflow, run)
    shown["retention"] = _retention(mlflow, run)
    return shown


def _trials(mlflow: Connection, parent: Any) -> list[dict[str, Any]]:
    """The runs below a run, by name, with the parameters in which they differ."""
    wanted = f"tags.`{PARENT}` = '{parent.info.run_id}'"
    found = mlflow.all("search_runs", [parent.info.experiment_id], wanted, max_results=PAGE)
    keys = sorted({key for run in found for key in run.data.params if key not in ("run_id", "name")})
    differing = [key for key in keys if len({run.data.params.get(key) for run in found}) > 1]
    rows = [
        {
            **_summary(run, {}),
            "params": {key: run.data.params[key] for key in differing if key in run.data.params},
        }
        for run in found
    ]
    return sorted(rows, key=lambda row: str(row["run_id"]))


def _retention(mlflow: Connection, run: Any) -> list[list[float]]:
    """The retention matrix that a run left with its report; empty for a run that has not ended."""
    place = run.info.artifact_uri
    if run.info.status == "RUNNING" or RESULT not in mlflow.files(place, REPORT):
        return []
    with tempfile.TemporaryDirectory(prefix="elder-result-") as folder:
        file = Path(folder) / RESULT
        mlflow.fetch(place, f"{REPORT}/{RESULT}", file)
        content = json.loads(file.read_text(encoding="utf-8"))
    return [[float(value) for value in row] for row in content.get("retention") or []]


def resolve_ref(mlflow: Connection, ref: str) -> AdapterRef:
    """The logged adapter that a reference means.

    Args:
        mlflow: Where to look.
        ref: `ID` or `runs:/ID` (its last stage), `runs:/ID/stage-0007`, `models:/NAME/3`,
            `models:/NAME@ALIAS`, `models:/m-...`; ID is a pipeline's run id or MLflow's.

    Raises:
        InputError: It is none of these forms, or there is no such thing; the message lists what there is.
    """
    if ref.startswith("models:/"):
        return _reference(_registered_model(mlflow, ref))
    run_id, slash, stage = ref.removeprefix("runs:/").partition("/")
    wanted = re.fullmatch(r"stage-(\d+)", stage)
    if (slash and not (wanted and ref.startswith("runs:/"))) or not run_id:
        raise InputError(f"{ref!r} is not a reference: {FORMS}")
    run = _run(mlflow, run_id)
    models = stage_models(mlflow, run.info.experiment_id, run.info.run_id)
    ready = {int(model.tags[STAGE]): model for model in models if model.status == "READY"}
    number = int(wanted.group(1)) if wanted else max(ready, default=-1)
    if number not in ready:
        stages = ", ".join(f"stage-{stage:04d}" for stage in ready) or "none yet"
        raise InputError(f"{ref}: the run has no such committed stage. There are: {stages}")
    return _reference(ready[number])


def fetch_from(mlflow: Connection, artifact_location: str) -> Fetch:
    """Fetches the files of a logged adapter."""

    @cache
    def names() -> set[str]:
        return mlflow.files(artifact_location, ADAPTER_FOLDER)

    def fetch(name: str, path: Path) -> None:
        if name not in names():  # a server asked for an absent file answers 500, which its client repeats for minutes
            raise KeyError(name)
        mlflow.fetch(artifact_location, f"{ADAPTER_FOLDER}/{name}", path)

    return fetch


def _run(mlflow: Connection, run_id: str) -> Any:
    experiments = _experiments(mlflow)
    found = find_run(mlflow, run_id, list(experiments)) or mlflow.find("get_run", run_id)
    if found is None:
        known = [f"{row['run_id']} ({row['name']})" for row in list_runs(mlflow, None, LISTED)]
        raise InputError(f"no run '{run_id}'. The newest are: {', '.join(known) or 'none yet'}")
    return found


def registered_version(mlflow: Connection, ref: str) -> Any | None:
    """The version that `models:/NAME/3` or `models:/NAME@ALIAS` means; None for references of other forms.

    Raises:
        InputError: There is no such version; the message lists what there is.
    """
    name = ref.removeprefix("models:/")
    if name == ref or re.fullmatch(r"m-[0-9a-f]{32}", name):
        return None
    at = re.fullmatch(r"([^/@]+)(?:/(\d+)|@([\w.-]+))", name)
    if at is None:
        raise InputError(f"{ref!r} is not a reference: {FORMS}. {_listing(mlflow, name.partition('/')[0])}")
    model_name, number, alias = at.groups()
    version = (
        mlflow.find("get_model_version", model_name, number)
        if number
        else mlflow.find("get_model_version_by_alias", model_name, alias)
    )
    if version is None:
        raise InputError(f"there is no {ref}. {_listing(mlflow, model_name)}")
    return version


def _registered_model(mlflow: Connection, ref: str) -> Any:
    version = registered_version(mlflow, ref)
    if version is None:
        model = mlflow.find("get_logged_model", ref.removeprefix("models:/"))
        if model is None:
            raise InputError(f"{ref}: no logged model has this id")
        return model
    model_id = version.tags.get(MODEL_ID) or version.model_id
    model = mlflow.find("get_logged_model", model_id) if model_id else None
    if model is None:
        raise InputError(f"{ref} was not registered by elder or its files were deleted: it has no logged model")
    return model


def _listing(mlflow: Connection, name: str) -> str:
    model = mlflow.find("get_registered_model", name) if name else None
    if model is None:
        names = sorted(found.name for found in mlflow.call("search_registered_models", max_results=LISTED))
        return f"Registered names: {', '.join(names) or 'none yet'}"
    versions = mlflow.call("search_model_versions", f"name = '{name}'", max_results=LISTED)
    numbers = ", ".join(str(number) for number in sorted(int(version.version) for version in versions))
    aliases = ", ".join(f"@{alias} -> {number}" for alias, number in sorted(model.aliases.items()))
    return f"'{name}' has versions {numbers or 'none'}; aliases: {aliases or 'none'}"


def _reference(model: Any) -> AdapterRef:
    tags = model.tags
    if STAGE not in tags or model.status != "READY":
        raise InputError(f"models:/{model.model_id} is not a committed adapter of elder (status {model.status})")
    metrics = last_metrics(model)
    run_id, stage = tags.get(RUN_ID, ""), int(tags[STAGE])
    place = model.artifact_location
    digest, stored_at = tags.get(MANIFEST), tags.get(STORED_AT)
    return AdapterRef(model.model_id, model.name, run_id, stage, place, digest, metrics, stored_at)


def _experiments(mlflow: Connection) -> dict[str, str]:
    return {found.experiment_id: found.name for found in mlflow.all("search_experiments")}


def _summary(run: Any, experiments: dict[str, str]) -> dict[str, Any]:
    tags = run.data.tags
    return {
        "name": run.info.run_name,
        "run_id": tags.get(RUN_ID, run.info.run_id),
        "status": run.info.status,
        "stages": int(tags.get(STAGES, 0)),
        "started": _when(run.info.start_time),
        "experiment": experiments.get(run.info.experiment_id, run.info.experiment_id),
        "metrics": dict(sorted(run.data.metrics.items())),
    }


def _stage(mlflow: Connection, model: Any) -> dict[str, Any]:
    versions = json.loads(model.tags.get(VERSIONS, "[]"))
    metrics = last_metrics(model)
    edits = int(model.tags.get("elder.edits", 0))
    return {
        "stage": int(model.tags[STAGE]),
        "edits": edits,
        "status": str(model.status),
        "model_id": model.model_id,
        "metrics": dict(sorted(metrics.items())),
        "registered": [_version(mlflow, str(one["name"]), int(one["version"])) for one in versions],
    }


def _version(mlflow: Connection, name: str, version: int) -> dict[str, Any]:
    model = mlflow.find("get_registered_model", name)
    return {"name": name, "version": version, "aliases": [] if model is None else aliases_of(model, version)}


def last_metrics(model: Any) -> dict[str, float]:
    """Of a logged model, each metric at its highest step; MLflow gives those of all steps, in no order."""
    points = sorted(model.metrics or (), key=lambda metric: (metric.step, metric.timestamp))
    return {metric.key: metric.value for metric in points}


def aliases_of(model: Any, version: int) -> list[str]:
    """The aliases of a registered model that point to a version."""
    return sorted(alias for alias, number in model.aliases.items() if int(number) == version)


def _when(milliseconds: int | None) -> str | None:
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
