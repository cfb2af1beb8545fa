"""`elder compare` and `elder study` as a user calls them: real methods on a small random model, a real MLflow file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.conftest import Elder
from tests.pipelines.fakes import leave_out_plots


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is tested elsewhere."""
    leave_out_plots(monkeypatch)


def test_two_methods_side_by_side(elder: Elder, tmp_path: Path, small_run: list[str]) -> None:
    given = [*small_run, "data.edits=2", "stream.stage_size=2", "tracking.register=null", "run_id=c1"]
    plus = ["compare.methods.elder={}", "compare.methods.elder-plus={steps: 1, extra_steps: 0, rank: 2, layers: [3]}"]
    done = elder("compare", "demo", *given, *plus, "--strategy", "single", "--json", "r.json")
    assert done.code == 0, done.err
    for text in ("right after the edit", "elder-plus", "report.html"):
        assert text in done.out
    result = json.loads((tmp_path / "r.json").read_text())
    assert list(result["methods"]) == ["elder", "elder-plus"]
    assert {"run_id", "stages", "final", "adapter", "timing"} <= set(result["methods"]["elder"])
    assert (tmp_path / "elder-runs" / "compare" / "c1" / "compare.csv").exists()
    from mlflow import MlflowClient

    client = MlflowClient("sqlite:///elder-runs/mlflow.db")
    runs = client.search_runs([one.experiment_id for one in client.search_experiments()])
    parents = {run.data.tags["elder.run_id"]: run.data.tags.get("mlflow.parentRunId") for run in runs}
    top = next(run.info.run_id for run in runs if run.data.tags["elder.run_id"] == "c1")
    assert parents == {"c1": None, "c1-elder": top, "c1-elder-plus": top}


def test_a_method_that_cannot_find_its_subject_is_reported_and_the_other_finishes(
    elder: Elder, tmp_path: Path, small_run: list[str]
) -> None:
    rows = [{"prompt": "The town is", "target": "Oslo"}, {"prompt": "The river is", "target": "Nile"}]
    (tmp_path / "none.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [*small_run, f"data.path={tmp_path / 'none.jsonl'}", "stream.stage_size=2", "tracking.mlflow=null"]
    given += [
        "tracking.register=null",
        "compare.methods.rome={statistics: false, layers: [1]}",
        "compare.methods.elder={}",
    ]
    done = elder("compare", "demo", *given, "--json", "r.json")
    assert done.code == 1, done.err + done.out
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["status"] == {"rome": "failed", "elder": "finished"}
    assert "subject" in result["failed"]["rome"]


def test_a_block_that_is_not_there_is_the_failure_of_its_method(
    elder: Elder, tmp_path: Path, small_run: list[str]
) -> None:
    """The method stands first: what all of them read is read with its config."""
    given = [*small_run, "data.edits=2", "stream.stage_size=2", "tracking.mlflow=null", "tracking.register=null"]
    given += ["compare.methods.bad={method: elder, layers: [9]}", "compare.methods.elder={}"]
    done = elder("compare", "demo", *given, "--json", "r.json")
    assert done.code == 1, done.err + done.out
    result = json.loads((tmp_path / "r.json").read_text())
    assert result["status"] == {"bad": "failed", "elder": "finished"}
    assert "9" in result["failed"]["bad"]


def test_only_gates_that_refuse_end_with_four(elder: Elder, tmp_path: Path, small_run: list[str]) -> None:
    given = [*small_run, "data.edits=2", "stream.stage_size=2", "tracking.mlflow=null", "tracking.register=null"]
    done = elder("compare", "demo", *given, "gates.reliability=1.0", "--methods", "elder", "--json", "r.json")
    assert done.code == 4, done.err
    assert json.loads((tmp_path / "r.json").read_text())["status"] == {"elder": "refused"}


def test_mistakes_come_before_anything_starts(elder: Elder, tmp_path: Path, small_run: list[str]) -> None:
    found = elder("compare", "demo", *small_run, "--methods", "elder,memt")
    assert found.code == 2
    assert "memit" in found.err
    assert not (tmp_path / "elder-runs").exists()
    assert "--methods" in elder("compare", "demo", *small_run).err
    assert "--methods: names no method" in elder("compare", "demo", *small_run, "--methods", " , ").err
    said = elder("edit", "demo", "compare.methods.elder={}")
    assert said.code == 2
    assert "elder compare" in said.err


def test_a_small_study(elder: Elder, tmp_path: Path, small_run: list[str]) -> None:
    parts = "study.parts={p: {axis: layers, values: [2, 3], strategies: [single], edits: 2}}"
    given = [*small_run, "tracking.mlflow=null", "tracking.register=null", "study.methods.elder={}", parts]
    done = elder("study", "demo", *given, "run_id=s1", "--json", "r.json")
    assert done.code == 0, done.err
    runs = json.loads((tmp_path / "r.json").read_text())["runs"]
    assert [run["value"] for run in runs.values()] == [2, 3]
    assert (tmp_path / "elder-runs" / "study" / "s1" / "report.md").exists()
