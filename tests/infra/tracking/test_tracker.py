"""MLflow on sqlite: the common contract, what is kept, and what a killed driver leaves behind."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from elder.errors import ConfigError, InputError, UnreachableError
from elder.infra.tracking.tracker import Connection, MlflowTracker, runs, show
from tests.contracts.tracker import CONFIG, TAGS, TrackerContract, write_adapter
from tests.infra.servers import free_port


class TestMlflowTracker(TrackerContract):
    @pytest.fixture
    def tracker(self, database: Path) -> MlflowTracker:
        return MlflowTracker(database, "contract")


@pytest.fixture
def client(database: Path) -> MlflowClient:
    """A client of the test's own."""
    return MlflowClient(f"sqlite:///{database}")


@pytest.fixture
def tracker(database: Path) -> MlflowTracker:
    """A tracker with one open run."""
    tracker = MlflowTracker(database, "tests/of tracker")
    tracker.start("run-1", "elder/world: 10e", CONFIG, TAGS)
    return tracker


def again(database: Path) -> MlflowTracker:
    """A tracker of a driver that was killed and started again."""
    tracker = MlflowTracker(database, "tests/of tracker")
    tracker.start("run-1", "elder/world: 10e", CONFIG, TAGS)
    return tracker


def test_the_config_is_kept_flat_and_whole(database: Path, client: MlflowClient, tmp_path: Path) -> None:
    tracker = MlflowTracker(database, "x")
    run = client.get_run(tracker.start("run-1", "demo", {**CONFIG, "long": "x" * 7000, "odd key!": 1}, TAGS))
    assert run.data.params["editor.rank"] == "8"
    assert run.data.params["editor.layers"] == "[1, 2]"
    assert run.data.params["odd key_"] == "1"
    assert len(run.data.params["long"]) == 6000
    assert run.data.tags["elder.git"] == "abc1234"
    assert run.info.run_name == "demo"
    text = Path(client.download_artifacts(run.info.run_id, "config.yaml", str(tmp_path))).read_text()
    assert text.startswith("name: demo\nseed: 0\neditor:\n  method: elder\n")


def test_more_than_a_hundred_parameters(database: Path, client: MlflowClient) -> None:
    run = MlflowTracker(database, "x").start("run-1", "demo", {f"key{n}": n for n in range(250)}, {})
    assert len(client.get_run(run).data.params) == 250


def test_resuming_keeps_parameters_and_reopens_the_run(database: Path, client: MlflowClient) -> None:
    first = MlflowTracker(database, "x")
    run = first.start("run-1", "demo", {"cluster": {"workers": 2}}, {"try": "1"})
    first.finish("FAILED")
    assert MlflowTracker(database, "x").start("run-1", "demo", {"cluster": {"workers": 4}}, {"try": "2"}) == run
    found = client.get_run(run)
    assert (found.info.status, found.data.params["cluster.workers"], found.data.tags["try"]) == ("RUNNING", "2", "2")


def test_metrics_are_logged_once_across_restarts(tracker: MlflowTracker, database: Path, client: MlflowClient) -> None:
    values = {"reliability.generate": 1.0, "loss": math.nan, "worst": math.inf}
    tracker.log_metrics(values, 10)
    tracker.log_metrics(values, 10)
    resumed = again(database)
    resumed.log_metrics(values, 10)
    resumed.log_metrics({**values, "reliability.generate": 0.9}, 20)
    run = client.search_runs([client.get_experiment_by_name("tests/of tracker").experiment_id])[0].info.run_id
    points = [(p.step, p.value) for p in client.get_metric_history(run, "reliability.generate")]
    assert sorted(points) == [(10, 1.0), (20, 0.9)]
    assert sorted(p.step for p in client.get_metric_history(run, "loss")) == [10, 20]
    assert sorted(p.step for p in client.get_metric_history(run, "worst")) == [10, 20]


def test_metrics_of_a_model_are_the_same_points(tracker: MlflowTracker, client: MlflowClient, tmp_path: Path) -> None:
    tracker.log_metrics({"a": 1.0}, 10)
    model = client.get_logged_model(tracker.log_adapter(0, write_adapter(tmp_path / "a"), {"a": 1.0, "b": 2.0}, 10))
    tracker.log_metrics({"b": 2.0}, 10)
    assert {(m.key, m.step, m.value) for m in model.metrics} == {("a", 10, 1.0), ("b", 10, 2.0)}
    for key in ("a", "b"):
        assert len(client.get_metric_history(model.source_run_id, key)) == 1


def test_a_logged_model_tells_what_it_is(tracker: MlflowTracker, client: MlflowClient, tmp_path: Path) -> None:
    model = client.get_logged_model(tracker.log_adapter(7, write_adapter(tmp_path / "a"), {}, 80))
    assert model.name == "elder-world- 10e-stage-0007"
    assert model.status == "READY"
    expected = {"elder.run_id": "run-1", "elder.stage": "7", "elder.edits": "80", "elder.method": "elder"}
    assert expected.items() <= model.tags.items()
    run = client.get_run(model.source_run_id)
    assert [(output.model_id, output.step) for output in run.outputs.model_outputs] == [(model.model_id, 80)]
    files = {item.path for item in client.list_logged_model_artifacts(model.model_id, "data/adapter")}
    assert files == {"data/adapter/adapter.safetensors", "data/adapter/manifest.json"}


class Killed(Exception):
    """Stands for a kill -9."""


@pytest.mark.parametrize(
    "moment", ["log_model_artifacts", "set_logged_model_tags", "log_outputs", "finalize_logged_model"]
)
def test_a_model_that_was_left_pending_is_completed(
    tracker: MlflowTracker,
    database: Path,
    client: MlflowClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moment: str,
) -> None:
    adapter = write_adapter(tmp_path / "a")
    call = Connection.call

    def dying(self: Connection, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == moment:
            raise Killed
        return call(self, method, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "call", dying)
        with pytest.raises(Killed):
            tracker.log_adapter(0, adapter, {"a": 1.0}, 10)
    resumed = again(database)
    model_id = resumed.log_adapter(0, adapter, {"a": 1.0}, 10)
    experiment = client.get_experiment_by_name("tests/of tracker").experiment_id
    models = client.search_logged_models([experiment])
    assert [(model.model_id, str(model.status)) for model in models] == [(model_id, "READY")]
    assert len(models[0].metrics) == 1
    assert len(client.get_run(models[0].source_run_id).outputs.model_outputs) == 1
    assert show(database, "run-1")["stages"][0]["metrics"] == {"a": 1.0}


def test_a_failed_model_is_replaced(tracker: MlflowTracker, client: MlflowClient, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a")
    first = tracker.log_adapter(0, adapter, {}, 10)
    client.finalize_logged_model(first, "FAILED")
    assert tracker.log_adapter(0, adapter, {}, 10) != first


def test_only_what_is_complete_counts_as_logged(
    tracker: MlflowTracker, database: Path, client: MlflowClient, tmp_path: Path
) -> None:
    tracker.log_table("edits/stage-0000.json", [{"edit_id": "x"}])
    whole, half = (tracker.log_adapter(stage, write_adapter(tmp_path / str(stage)), {}, 10) for stage in (0, 1))
    client.finalize_logged_model(half, "PENDING")
    tables = ["edits/stage-0000.json", "edits/stage-0001.json"]
    assert again(database).logged(tables, [0, 1, 2]) == ({"edits/stage-0000.json"}, {0: whole})


def test_tables_beyond_what_a_tag_holds_are_logged_and_not_shown(
    tracker: MlflowTracker, client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("elder.infra.tracking.tracker.TAG_CHARS", 60)
    for stage in (0, 1):
        tracker.log_table(f"edits/stage-000{stage}.json", [{"edit_id": "x"}])
    run = client.search_runs([client.get_experiment_by_name("tests/of tracker").experiment_id])[0]
    assert [one["path"] for one in json.loads(run.data.tags["mlflow.loggedArtifacts"])] == ["edits/stage-0000.json"]
    files = {item.path for item in client.list_artifacts(run.info.run_id, "edits")}
    assert files == {"edits/stage-0000.json", "edits/stage-0001.json"}
    assert tracker.logged(["edits/stage-0000.json", "edits/stage-0001.json"], [])[0] == {"edits/stage-0000.json"}


def test_tables_are_replaced_and_shown(tracker: MlflowTracker, client: MlflowClient, tmp_path: Path) -> None:
    for count in (1, 2):
        tracker.log_table("per_edit", [{"edit_id": str(n), "ok": True} for n in range(count)])
    run = client.search_runs([client.get_experiment_by_name("tests/of tracker").experiment_id])[0]
    table = json.loads(Path(client.download_artifacts(run.info.run_id, "per_edit.json", str(tmp_path))).read_text())
    assert table == {"columns": ["edit_id", "ok"], "data": [["0", True], ["1", True]]}
    assert json.loads(run.data.tags["mlflow.loggedArtifacts"]) == [{"path": "per_edit.json", "type": "table"}]


def test_the_dataset_is_an_input_of_the_run(tracker: MlflowTracker, client: MlflowClient) -> None:
    for _ in range(2):
        tracker.log_dataset("world:small", "a" * 64, "world:small", 10)
    run = client.search_runs([client.get_experiment_by_name("tests/of tracker").experiment_id])[0]
    assert [item.dataset.digest for item in run.inputs.dataset_inputs] == ["a" * 36]
    assert run.data.tags["elder.dataset_digest"] == "a" * 64


def test_aliases_and_tags_of_versions(tracker: MlflowTracker, client: MlflowClient, tmp_path: Path) -> None:
    adapter = write_adapter(tmp_path / "a")
    one, two = (tracker.log_adapter(stage, adapter, {}, stage) for stage in (0, 1))
    tracker.register(one, "facts", "champion", {"who": "me"})
    tracker.register(two, "facts", "champion", {"who": "me"})
    tracker.register(one, "facts", None, {"why": "audit"})
    version = client.get_model_version_by_alias("facts", "champion")
    assert (int(version.version), version.tags["elder.model_id"]) == (2, two)
    assert client.get_model_version("facts", "1").tags == {"who": "me", "why": "audit", "elder.model_id": one}
    assert json.loads(client.get_logged_model(one).tags["mlflow.modelVersions"]) == [{"name": "facts", "version": "1"}]
    assert len(client.search_model_versions("name = 'facts'")) == 2


def test_a_deleted_experiment(database: Path, client: MlflowClient) -> None:
    MlflowTracker(database, "gone").start("run-1", "demo", {}, {})
    client.delete_experiment(client.get_experiment_by_name("gone").experiment_id)
    with pytest.raises(InputError, match="'gone' was deleted in MLflow"):
        MlflowTracker(database, "gone").start("run-1", "demo", {}, {})


SILENT = """
import sys
from pathlib import Path
from elder.infra.tracking.tracker import MlflowTracker, pull
place = Path(sys.argv[1])
tracker = MlflowTracker(place / "new", "x")
tracker.start("run-1", "demo", {}, {})
model = tracker.log_adapter(0, place / "adapter", {"a": 1.0}, 10)
tracker.register(model, "facts", "champion", {})
tracker.finish("FINISHED")
pull("models:/facts@champion", place / "pulled", place / "new")
"""


def test_nothing_is_said_to_the_terminal(tmp_path: Path) -> None:
    """In a fresh process, with a database that has yet to be made, which is when MLflow talks most."""
    write_adapter(tmp_path / "adapter")
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    arguments = [sys.executable, "-c", SILENT, str(tmp_path)]
    ended = subprocess.run(
        arguments, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["adapter", "new", "pulled"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["artifacts", "mlflow.db"]


def test_no_global_address_is_set(tracker: MlflowTracker) -> None:
    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert "MLFLOW_RUN_ID" not in os.environ


@pytest.mark.parametrize("uri", ["ftp://host", "postgresql://host/db", ""])
def test_bad_addresses(uri: str) -> None:
    with pytest.raises(ConfigError, match=r"tracking\.mlflow"):
        MlflowTracker(uri)


def test_nobody_answers() -> None:
    address = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(UnreachableError, match=rf"{address} does not answer"):
        MlflowTracker(address)
    with pytest.raises(UnreachableError, match="does not answer"):
        runs(address)


def test_a_database_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UnreachableError, match="cannot be made"):
        MlflowTracker(tmp_path / "file" / "x.db")
    (tmp_path / "broken.db").write_text("this is not a database")
    with pytest.raises(UnreachableError, match="refuses or does not answer"):
        MlflowTracker(tmp_path / "broken.db").start("run-1", "demo", {}, {})


def test_a_run_id_that_cannot_be_searched(database: Path) -> None:
    with pytest.raises(InputError, match="expected letters"):
        MlflowTracker(database).start("it's", "demo", {}, {})


def test_artifacts_that_cannot_be_written(tracker: MlflowTracker, database: Path, tmp_path: Path) -> None:
    artifacts = database.with_name(f"{database.stem}-artifacts")
    shutil.rmtree(artifacts)
    artifacts.write_text("in the way")
    with pytest.raises(UnreachableError, match="refuses or does not answer"):
        tracker.log_table("t", [{"a": 1}])
