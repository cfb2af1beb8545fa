"""A training of MALMEN on two real workers, one of which dies in the middle."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from elder.edit import Probe
from pipelines.state import RunState
from pipelines.train_config import parse_train_config
from pipelines.train_driver import run_training
from tests.cluster.tiny import make_edits, write_model
from tests.pipelines.fakes import RecordingTracker, StoreAt

pytestmark = pytest.mark.nodes
FACTS = 20


def train(root: Path, model: str, facts: Path, on_event: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    config = parse_train_config(
        f"""
name: t
run_id: t1
model: {{source: {model}}}
data: {{source: jsonl, path: {facts}}}
validation: {{edits: 4}}
training: {{steps: 9, checkpoint_every: 3}}
editor: {{method: malmen, n_edits: 4, rank: 8, micro_batch: 4, lr: 1.0e-2, meta_lr: 1.0e-3}}
cluster: {{workers: 2, sharding: none}}
tracking: {{mlflow: unused.db}}
"""
    )
    return run_training(config, StoreAt(str(root)), RecordingTracker(), on_event)


def test_a_killed_worker_loses_no_checkpoint_and_repeats_none(tmp_path: Path, ray_cluster: None) -> None:
    import json
    from dataclasses import replace

    model = str(write_model(tmp_path / "llama", "llama"))
    facts = tmp_path / "facts.jsonl"
    edits = [
        replace(edit, rephrases=(f"I say: {edit.prompt}",), locality=(Probe("Water is", "wet"),))
        for edit in make_edits(FACTS)
    ]
    facts.write_text("\n".join(json.dumps(edit.to_dict()) for edit in edits))
    whole = train(tmp_path / "a", model, facts, lambda event: None)
    killed: list[int] = []

    def on_event(event: Mapping[str, Any]) -> None:
        if event["kind"] == "committed" and event["stage"] == 0 and not killed:
            workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in p.name()]
            killed.append(max(workers, key=lambda p: p.create_time()).pid)
            os.kill(killed[0], signal.SIGKILL)

    result = train(tmp_path / "b", model, facts, on_event)
    assert killed
    assert [s["state_digest"] for s in result["stages"]] == [s["state_digest"] for s in whole["stages"]]
    commits = RunState(StoreAt(str(tmp_path / "b"))(), "t1").commits()
    assert [commit.stage for commit in commits] == [0, 1, 2]
    assert len({commit.attempt for commit in commits}) == 2
