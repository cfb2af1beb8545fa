"""`elder tune` as a user calls it: mistakes before anything starts, and a small real search from end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.conftest import Elder

SPACE = "tune.space={editor.lr: {loguniform: [1.0e-4, 1.0e-2]}, editor.rank: {choice: [1, 2]}}"


def test_edit_names_tune_and_tune_names_edit(elder: Elder, tmp_path: Path) -> None:
    edit = elder("edit", "tune/elder_demo")
    assert edit.code == 2
    assert "run it with `elder tune`" in edit.err
    tune = elder("tune", "demo")
    assert tune.code == 2
    assert "run it with `elder edit`" in tune.err
    assert list(tmp_path.iterdir()) == []


def test_mistakes_are_told_at_once_before_anything_starts(elder: Elder, tmp_path: Path) -> None:
    found = elder("tune", "tune/elder_demo", "tune.trails=3", "tune.space.editor.rank={choice: [0]}", "editor.stepz=1")
    assert found.code == 2
    assert "tune.trails: unknown key; did you mean 'trials'?" in found.err
    assert "editor.stepz" in found.err
    assert list(tmp_path.iterdir()) == []


def test_a_copied_search_says_how_to_run_it(elder: Elder) -> None:
    assert "elder tune my.yaml" in elder("cp", "tune/elder_demo", "my.yaml").out
    assert "elder edit my2.yaml" in elder("cp", "demo", "my2.yaml").out


@pytest.mark.cluster
def test_a_search_from_its_config_to_an_edited_model(elder: Elder, small_run: list[str], tmp_path: Path) -> None:
    """A real small Llama and MLflow on sqlite: search, again, the winner's config, its registered adapter."""
    given = [text for text in small_run if not text.startswith("cluster")]
    given += [SPACE, "tune.trials=3", "tune.finalists=1", "tune.seeds=2", "tune.concurrent=1", "tune.searcher=random",
              "tune.objective=[locality, scope.edits]", "tracking.register=facts"]  # fmt: skip
    done = elder("tune", "tune/elder_demo", *given, "run_id=s1", "--json", "result.json")
    assert done.code == 0, done.err
    result = json.loads((tmp_path / "result.json").read_text())
    out = tmp_path / "elder-runs" / "tune" / "s1"
    assert result["best"]["config"] == str(Path("elder-runs/tune/s1/best.yaml"))
    assert [trial["status"] for trial in result["trials"]].count("failed") == 0
    assert result["finalists"][0]["seeds"] == [0, 1]
    assert result["registered"] == {"name": "facts", "version": 1}
    for name in ("best.yaml", "report.html", "records.jsonl", "plots/parallel.png"):
        assert (out / name).exists()
    assert f"elder edit {result['best']['config']}" in done.out
    again = elder("tune", "tune/elder_demo", *given, "run_id=s1", "--json", "again.json", "--out", "other")
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "again.json").read_text())["trials"] == result["trials"]
    assert (tmp_path / "other" / "best.yaml").read_text() == (out / "best.yaml").read_text()
    refused = elder("tune", "tune/elder_demo", *given, "run_id=s1", "tune.trials=2")
    assert refused.code == 2
    assert "tune.trials: 3 -> 2 (a search can be given more trials, not fewer)" in refused.err

    edited = elder("edit", result["best"]["config"], "cluster.workers=0", "--json", "edit.json", "run_id=e1",
                   "tracking.register=null")  # fmt: skip
    assert edited.code == 0, edited.err
    assert json.loads((tmp_path / "edit.json").read_text())["final"] == pytest.approx(result["best"]["metrics"])
    pulled = elder("pull", "models:/facts@candidate", "adapter", "--json", "pull.json")
    assert pulled.code == 0, pulled.err
    ours = json.loads((tmp_path / "edit.json").read_text())["stages"][-1]["state_digest"]
    assert json.loads((tmp_path / "pull.json").read_text())["manifest"]["state_digest"] == ours

    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path / 'elder-runs' / 'mlflow.db'}")
    runs = client.search_runs([e.experiment_id for e in client.search_experiments()])
    parent = next(run for run in runs if run.data.tags.get("elder.run_id") == "s1")
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert {run.data.tags["elder.run_id"] for run in children} == {
        *(f"s1-{trial['trial']}" for trial in result["trials"]), "s1-f01-s1",
    }  # fmt: skip
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["elder.best.trial"] == result["best"]["trial"]
    one = next(run for run in children if run.data.tags["elder.run_id"] == result["best"]["run_id"])
    assert [p.step for p in client.get_metric_history(one.info.run_id, "locality.generate")] == [4, 8]
    assert float(one.data.params["editor.lr"]) == result["best"]["parameters"]["editor.lr"]
    names = {item.path for item in client.list_artifacts(parent.info.run_id)}
    assert {"best.yaml", "records.jsonl", "report.html", "plots", "config.yaml"} <= names
