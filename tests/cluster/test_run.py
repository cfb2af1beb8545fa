"""The main job with nothing faked: Ray Train, DeepSpeed ZeRO-3, a real editor, a store in a directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import elder
from elder.adapter_files import verify
from elder.metrics.evaluator import Evaluator
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.run.commits import RunState
from tests.cluster.tiny import make_edits, write_model
from tests.pipelines.fakes import RecordingTracker, StoreAt, make_config

pytestmark = pytest.mark.cluster
EDITS = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model") / "llama", "llama"))


def run(root: Path, model: str) -> dict[str, Any]:
    config = make_config(
        model={"source": model},
        editor={"method": "elder-plus", "steps": 12, "extra_steps": 12},
        evaluation={"protocols": ["generate", "forced"], "max_new_tokens": 4},
        cluster={"workers": 2, "sharding": "zero3"},
    )
    return run_edit(config, StoreAt(str(root)), RecordingTracker(), edits=make_edits(EDITS))


@pytest.fixture(scope="module")
def undisturbed(model: str, tmp_path_factory: pytest.TempPathFactory, ray_cluster: None) -> tuple[Path, dict[str, Any]]:
    root = tmp_path_factory.mktemp("undisturbed")
    return root, run(root, model)


def test_the_committed_adapter_answers_as_it_did_when_it_was_measured(
    undisturbed: tuple[Path, dict[str, Any]], model: str
) -> None:
    """Sharded on two ranks when it was committed, whole in this process now."""
    root, result = undisturbed
    place = Path(result["adapter"]["uri"])
    assert verify(place)["state_digest"] == result["adapter"]["digest"]
    edited = elder.load_edited(place, base=model)
    rows = RunState(StoreAt(str(root))(), "run-1").read_rows(RunState(StoreAt(str(root))(), "run-1").commits()[-1])
    report = Evaluator(edited, max_new_tokens=4).measure(make_edits(EDITS))
    assert [r["reliability.generate.text"] for r in report.rows] == [r["reliability.generate.text"] for r in rows]
    assert result["final"]["reliability.forced"] == report.metrics["reliability.forced"]
    assert result["base_model"]["digest"] == edited.base.digest


def test_edits_were_learnt(undisturbed: tuple[Path, dict[str, Any]]) -> None:
    """Otherwise equal answers would say little."""
    assert undisturbed[1]["final"]["reliability.forced"] > 0.5
