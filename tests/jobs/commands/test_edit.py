"""`elder edit` end to end in this process (workers: 0), and what can be done with its result."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.conftest import Elder, build_model, records, write_jsonl

FIELDS = {
    "run_id",
    "config_digest",
    "base_model",
    "stages",
    "final",
    "retention",
    "adapter",
    "registered",
    "timing",
}
UNTRACKED = ("tracking.mlflow=null", "tracking.register=null")  # opening a new MLflow database takes seconds


@pytest.fixture
def done(elder: Elder, small_run: list[str], tmp_path: Path) -> dict:  # type: ignore[type-arg]
    """A finished run with id r1, and its result."""
    found = elder("edit", "demo", *small_run, "--run-id", "r1", "--json", "result.json")
    assert found.code == 0, found.err
    return {"result": json.loads((tmp_path / "result.json").read_text()), "out": found.out}


def test_edit_show_pull_evaluate(elder: Elder, done: dict, small_run: list[str], tmp_path: Path) -> None:  # type: ignore[type-arg]
    result, out = done["result"], done["out"]
    assert set(result) == FIELDS
    assert result["run_id"] == "r1"
    assert [stage["committed"] for stage in result["stages"]] == [True, True]
    assert [len(row) for row in result["retention"]] == [1, 2]
    for text in (
        "run_id=r1",
        "stage 1: committed",
        "retention",
        "before and after",
        "mlflow ui --backend-store-uri",
        "report",
    ):
        assert text in out, text
    assert (tmp_path / "elder-runs/store/runs/r1/report").is_dir()
    assert str(tmp_path / "elder-runs/store/runs/r1/report") in out.replace("\n", "")

    listed = elder("runs", "--json", "runs.json")
    assert listed.code == 0
    assert "r1" in listed.out
    shown = elder("show", "r1", "--json", "show.json")
    assert shown.code == 0
    assert "reliability" in shown.out

    pulled = elder("pull", "models:/elder-demo@champion", "adapter", "--json", "pull.json")
    assert pulled.code == 0, pulled.err
    assert (
        json.loads((tmp_path / "pull.json").read_text())["manifest"]["state_digest"]
        == result["stages"][-1]["state_digest"]
    )
    assert elder("pull", "models:/elder-demo@champion", "adapter").code == 2  # never over a directory

    for adapter in ("adapter", "models:/elder-demo/1"):
        measured = elder("evaluate", adapter, "demo", *small_run, "--json", "evaluated.json")
        assert measured.code == 0, measured.err
        again = json.loads((tmp_path / "evaluated.json").read_text())["metrics"]
        for name in ("reliability.generate", "reliability.forced", "locality.generate", "generalization.forced"):
            assert again[name] == pytest.approx(result["final"][name], abs=1e-9), name


def test_a_finished_run_is_returned_and_another_config_refused(
    elder: Elder,
    done: dict,
    small_run: list[str],
    tmp_path: Path,  # type: ignore[type-arg]
) -> None:
    again = elder("edit", "demo", *small_run, "run_id=r1", "evaluation.batch_size=3", "--json", "again.json")
    assert again.code == 0, again.err
    assert json.loads((tmp_path / "again.json").read_text()) == done["result"]
    other = elder("edit", "demo", *small_run, "run_id=r1", "seed=1")
    assert other.code == 2
    assert "seed: 0 -> 1" in other.err


def test_plan_names_the_keys_that_a_run_writes(elder: Elder, done: dict, small_run: list[str], tmp_path: Path) -> None:  # type: ignore[type-arg]
    assert elder("plan", "demo", *small_run, "data.edits=8", "run_id=r1", "--json", "plan.json").code == 0
    planned = set(json.loads((tmp_path / "plan.json").read_text())["keys"])
    root = tmp_path / "elder-runs" / "store"
    written = {path.relative_to(root).as_posix() for path in (root / "runs").rglob("*") if path.is_file()}
    attempts = {key.split("/")[4] for key in written if "/stages/" in key and not key.endswith("COMMIT.json")}
    assert len(attempts) == 1
    plain = {key.replace(f"/{attempts.copy().pop()}/", "/{attempt}/") for key in written}
    assert {key for key in plain if "/report/" not in key} == {key for key in planned if not key.endswith("/report/")}


def test_gate_refuses_with_exit_4_and_leaves_its_result(elder: Elder, small_run: list[str], tmp_path: Path) -> None:
    found = elder("edit", "demo", *small_run, *UNTRACKED, "gates.reliability=1.0", "run_id=g1", "--json", "gate.json")
    assert found.code == 4, found.err
    assert "gates.reliability" in found.err
    assert "continue with: elder edit demo" in found.err
    stages = json.loads((tmp_path / "gate.json").read_text())["stages"]
    assert [stage["committed"] for stage in stages] == [False]


def test_interrupted_run_says_what_stands_and_continues(
    elder: Elder, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from elder.jobs.terminal.display import Display

    small_run = [*small_run, *UNTRACKED]
    reference = elder("edit", "demo", *small_run, "run_id=whole", "--json", "whole.json")
    assert reference.code == 0, reference.err
    shown = Display.__call__

    def interrupting(self: Display, event: dict) -> None:  # type: ignore[type-arg]
        shown(self, event)
        if event["kind"] == "phase" and event["name"] == "edit" and event["stage"] == 1:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Display, "__call__", interrupting)
        stopped = elder("edit", "demo", *small_run, "run_id=cut")
    assert stopped.code == 130
    assert "stage 0 is committed (4 edits)" in stopped.err
    assert "run_id=cut" in stopped.err
    assert elder("edit", "demo", *small_run, "run_id=cut", "--json", "cut.json").code == 0
    states = [
        [stage["state_digest"] for stage in json.loads((tmp_path / name).read_text())["stages"]]
        for name in ("whole.json", "cut.json")
    ]
    assert states[0] == states[1]


def test_demo_pulls_the_adapter_back_and_asks_it(elder: Elder, small_run: list[str], tmp_path: Path) -> None:
    found = elder("demo", *small_run, "run_id=d1")
    assert found.code == 0, found.err
    assert "pulled back from MLflow into elder-runs/pulled/d1" in found.out
    assert found.out.count("before and after") == 2  # once as committed, once from the pulled adapter
    first, second = found.out.split("before and after")[1:]
    table = first.split("adapter")[0].strip().splitlines()
    assert [line.split() for line in table] == [line.split() for line in second.strip().splitlines()]
    assert {path.name for path in (tmp_path / "elder-runs/pulled/d1").iterdir()} >= {
        "adapter.safetensors",
        "manifest.json",
    }


def test_without_mlflow(elder: Elder, small_run: list[str], tmp_path: Path) -> None:
    found = elder("edit", "demo", *small_run, *UNTRACKED, "--json", "r.json")
    assert found.code == 0, found.err
    assert json.loads((tmp_path / "r.json").read_text())["registered"] is None
    assert not (tmp_path / "elder-runs" / "mlflow.db").exists()


@pytest.mark.parametrize(
    ("name", "kind", "layers", "query"),
    [("elder_llama2_7b_zsre", "llama", "[2,3]", 1), ("elder_gpt2xl_counterfact", "gpt2", "[2,3]", 1)],
)
def test_paper_configs_run_on_small_models_in_the_hubs_sharded_layout(
    elder: Elder, tmp_path: Path, name: str, kind: str, layers: str, query: int
) -> None:
    directory = build_model(tmp_path / "model", kind)
    edits = write_jsonl(tmp_path / "e.jsonl", records(6))
    found = elder(
        *("edit", f"paper/{name}", f"model.source={directory}", "data.source=jsonl", f"data.path={edits}"),
        *("data.edits=6", "stream.stage_size=4", f"editor.layers={layers}", f"editor.query_layer={query}"),
        *("editor.steps=2", "cluster.workers=0", "cluster.gpus_per_worker=0", "evaluation.max_new_tokens=4"),
        *(*UNTRACKED, "--json", "result.json"),
    )
    assert found.code == 0, found.err
    result = json.loads((tmp_path / "result.json").read_text())
    assert [stage["edits"] for stage in result["stages"]] == [4, 2]
    assert result["final"]["scope.edits"] >= 0
