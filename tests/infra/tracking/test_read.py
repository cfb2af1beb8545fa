"""What the command line reads back from MLflow: runs, stages, references, pulled adapters."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from elder.errors import AdapterError, InputError
from elder.infra.tracking.read import AdapterRef, resolve_ref
from elder.infra.tracking.tracker import Connection, MlflowTracker, pull, runs, show
from tests.contracts.tracker import CONFIG, write_adapter


@pytest.fixture(scope="module")
def filled(empty_database: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with one finished run of two stages (one registered twice) and one run that has just begun."""
    place = tmp_path_factory.mktemp("filled")
    database = place / "tracking.db"
    database.write_bytes(empty_database.read_bytes())
    tracker = MlflowTracker(database, "facts experiment")
    tracker.start("run-1", "first", CONFIG, {"elder.git": "abc"})
    for stage in (0, 1):
        adapter = write_adapter(place / f"stage-{stage}", b"weights of stage %d" % stage)
        metrics = {"reliability.generate": 1.0 - stage / 10}
        tracker.log_metrics(metrics, 10 * (stage + 1))
        model = tracker.log_adapter(stage, adapter, metrics, 10 * (stage + 1))
        tracker.register(model, "facts", "champion" if stage == 0 else "candidate", {})
    tracker.finish("FINISHED")
    MlflowTracker(database, "other").start("run-2", "second", CONFIG, {})
    return database


def resolve(ref: str, uri: str | Path) -> AdapterRef:
    return resolve_ref(Connection(uri), ref)


def stage_of(ref: str, database: Path) -> int:
    return resolve(ref, database).stage


def test_runs_are_listed_newest_first(filled: Path) -> None:
    found = runs(filled)
    assert [(row["run_id"], row["name"], row["status"], row["stages"]) for row in found] == [
        ("run-2", "second", "RUNNING", 0),
        ("run-1", "first", "FINISHED", 2),
    ]
    assert found[1]["metrics"] == {"reliability.generate": 0.9}
    assert found[1]["experiment"] == "facts experiment"


def test_runs_by_experiment_and_limit(filled: Path) -> None:
    assert [row["run_id"] for row in runs(filled, experiment="facts experiment")] == ["run-1"]
    assert [row["run_id"] for row in runs(filled, limit=1)] == ["run-2"]
    with pytest.raises(InputError, match=r"no experiment 'typo'.*facts experiment, other"):
        runs(filled, experiment="typo")


def test_runs_and_trials_are_read_over_all_pages(database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tracker = MlflowTracker(database, "searches")
    for name, trials in (("s1", 5), ("s2", 2)):
        parent = tracker.start(name, name, CONFIG, {})
        for number in range(trials):
            tracker.start(f"{name}-t{number:04d}", f"t{number}", CONFIG, {}, parent)
    monkeypatch.setattr("elder.infra.tracking.read.PAGE", 2)
    assert [(row["run_id"], row["trials"]) for row in runs(database)] == [("s2", 2), ("s1", 5)]
    assert len(runs(database, trials=True)) == 9
    assert len(runs(database, trials=True, limit=3)) == 3
    assert [row["run_id"] for row in show(database, "s1")["trials"]] == [f"s1-t{number:04d}" for number in range(5)]


def test_metrics_of_a_model_are_those_of_its_highest_step(database: Path, tmp_path: Path) -> None:
    tracker = MlflowTracker(database, "x")
    run = tracker.start("run-1", "first", CONFIG, {})
    model = tracker.log_adapter(0, write_adapter(tmp_path / "a"), {"rising": 0.1, "falling": 0.1}, 10)
    tracker.register(model, "facts", None, {})
    client = MlflowClient(f"sqlite:///{database}")
    for key, order in (("rising", (20, 30)), ("falling", (30, 20))):
        for step in order:
            client.log_metric(run, key, step / 100, step=step, model_id=model)
    expected = {"rising": 0.3, "falling": 0.3}
    assert resolve("run-1", database).metrics == expected
    assert show(database, "run-1")["stages"][0]["metrics"] == expected
    assert show(database, "models:/facts")["versions"][0]["metrics"] == expected


def test_no_runs_yet(database: Path) -> None:
    assert runs(database) == []


def test_show(filled: Path) -> None:
    found = show(filled, "run-1")
    assert [(s["stage"], s["edits"], s["status"], s["metrics"]) for s in found["stages"]] == [
        (0, 10, "READY", {"reliability.generate": 1.0}),
        (1, 20, "READY", {"reliability.generate": 0.9}),
    ]
    assert found["tags"]["elder.git"] == "abc"
    assert found["url"] is None
    assert json.loads(json.dumps(found)) == found
    assert show(filled, found["mlflow_run_id"]) == found


def test_show_of_an_unknown_run_lists_the_known(filled: Path) -> None:
    with pytest.raises(InputError, match=r"no run 'run-3'.*run-2 \(second\), run-1 \(first\)"):
        show(filled, "run-3")


def test_references(filled: Path) -> None:
    mlflow_id = show(filled, "run-1")["mlflow_run_id"]
    model_id = resolve("run-1", filled).model_id
    expected = {
        "run-1": 1,
        "runs:/run-1": 1,
        f"runs:/{mlflow_id}": 1,
        "runs:/run-1/stage-0000": 0,
        "runs:/run-1/stage-1": 1,
        "models:/facts/1": 0,
        "models:/facts/2": 1,
        "models:/facts@champion": 0,
        "models:/facts@candidate": 1,
        f"models:/{model_id}": 1,
    }
    assert {ref: stage_of(ref, filled) for ref in expected} == expected
    assert resolve("run-1", filled).run_id == "run-1"


@pytest.mark.parametrize(
    ("ref", "message"),
    [
        ("runs:/run-1/stage-0007", r"There are: stage-0000, stage-0001"),
        ("runs:/run-2", r"There are: none yet"),
        ("runs:/run-1/adapter", r"is not a reference: expected a run id"),
        ("run-1/stage-0001", r"is not a reference"),
        ("runs:/", r"is not a reference"),
        ("models:/facts/9", r"'facts' has versions 1, 2; aliases: @candidate -> 2, @champion -> 1"),
        ("models:/facts@best", r"@candidate -> 2, @champion -> 1"),
        ("models:/facts", r"is not a reference.*'facts' has versions 1, 2"),
        ("models:/unknown/1", r"Registered names: facts"),
        ("models:/m-" + "0" * 32, r"no logged model has this id"),
    ],
)
def test_references_to_nothing(filled: Path, ref: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        resolve(ref, filled)
    with pytest.raises(InputError, match=message):
        pull(ref, tmp_path / "pulled", filled)
    assert list(tmp_path.iterdir()) == []


def test_pull(filled: Path, tmp_path: Path) -> None:
    directory = pull("models:/facts@champion", tmp_path / "deep" / "pulled", filled)
    assert directory == tmp_path / "deep" / "pulled"
    assert sorted(path.name for path in directory.iterdir()) == ["adapter.safetensors", "manifest.json"]
    assert (directory / "adapter.safetensors").read_bytes() == b"weights of stage 0"
    assert [path.name for path in directory.parent.iterdir()] == ["pulled"]


def test_pull_into_an_empty_directory_and_not_into_a_full_one(filled: Path, tmp_path: Path) -> None:
    pull("run-1", tmp_path, filled)
    with pytest.raises(InputError, match="is not empty"):
        pull("run-1", tmp_path, filled)
    with pytest.raises(InputError, match="is not empty"):
        pull("run-1", tmp_path / "manifest.json", filled)


@pytest.mark.parametrize("file", ["adapter.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["change", "remove"])
def test_a_damaged_adapter_is_not_pulled(database: Path, tmp_path: Path, file: str, damage: str) -> None:
    tracker = MlflowTracker(database, "x")
    tracker.start("run-1", "demo", CONFIG, {})
    tracker.log_adapter(0, write_adapter(tmp_path / "a"), {}, 10)
    stored = Path(resolve("run-1", database).artifact_location) / "data" / "adapter" / file
    if damage == "remove":
        stored.unlink()
    else:
        stored.write_bytes(stored.read_bytes().replace(b"e", b"3", 1))
    with pytest.raises(AdapterError, match=r"manifest\.json|is damaged: adapter\.safetensors"):
        pull("run-1", tmp_path / "pulled", database)
    assert not (tmp_path / "pulled").exists()
    assert not list(tmp_path.glob(".partial*"))
