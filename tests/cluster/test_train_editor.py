"""A training of MALMEN and of MEND on two real workers, one of which dies in the middle: whole models and ZeRO-3."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from elder.edit import Probe
from elder.pipelines.config.training import parse_train_config
from elder.pipelines.run.commits import RunState
from elder.pipelines.training.driver import run_training
from tests.cluster.tiny import make_edits, write_model
from tests.pipelines.fakes import RecordingTracker, StoreAt

pytestmark = pytest.mark.nodes
FACTS = 20
Hear = Callable[[Mapping[str, Any]], None]


def train(
    root: Path, where: str, facts: Path, method: str, on_event: Hear = lambda event: None, steps: int = 6
) -> dict[str, Any]:
    config = parse_train_config(
        f"""
name: t
run_id: t1
model: {{source: {facts.parent / "llama"}}}
data: {{source: jsonl, path: {facts}}}
validation: {{edits: 4}}
training: {{steps: {steps}, checkpoint_every: 2}}
editor: {{method: {method}, accumulate: 2, n_edits: 4, rank: 8, micro_batch: 4, lr: 1.0e-2, meta_lr: 1.0e-3}}
cluster: {where}
tracking: {{mlflow: unused.db}}
"""
    )
    return run_training(config, StoreAt(str(root)), RecordingTracker(), on_event)


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Facts that a tiny model beside them can read."""
    directory = tmp_path_factory.mktemp("training")
    write_model(directory / "llama", "llama")
    edits = [
        replace(edit, rephrases=(f"I say: {edit.prompt}",), locality=(Probe("Water is", "wet"),))
        for edit in make_edits(FACTS)
    ]
    path = directory / "facts.jsonl"
    path.write_text("\n".join(json.dumps(edit.to_dict()) for edit in edits))
    return path


def kill_a_worker(event: Mapping[str, Any], killed: list[int]) -> None:
    """Once, as soon as the first checkpoint stands."""
    if event["kind"] == "committed" and event["stage"] == 0 and not killed:
        workers = [p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in p.name()]
        killed.append(max(workers, key=lambda p: p.create_time()).pid)
        os.kill(killed[0], signal.SIGKILL)


@pytest.mark.parametrize(("method", "sharding"), [("malmen", "zero3"), ("mend", "auto")])
def test_a_killed_worker_loses_no_checkpoint_and_repeats_none(
    method: str, sharding: str, facts: Path, tmp_path: Path, ray_cluster: None
) -> None:
    where = f"{{workers: 2, sharding: {sharding}}}"
    whole = train(tmp_path / "a", where, facts, method)
    killed: list[int] = []
    result = train(tmp_path / "b", where, facts, method, lambda event: kill_a_worker(event, killed))
    assert killed
    assert [s["state_digest"] for s in result["stages"]] == [s["state_digest"] for s in whole["stages"]]
    commits = RunState(StoreAt(str(tmp_path / "b"))(), "t1").commits()
    assert [commit.stage for commit in commits] == [0, 1, 2]
    assert len({commit.attempt for commit in commits}) == 2
    assert commits[-1].world["sharding"] == ("zero3" if sharding == "zero3" else "none")
    alone = train(tmp_path / "c", "{workers: 0, sharding: none}", facts, method)  # one process comes to the same editor
    assert result["final"] == pytest.approx(alone["final"], rel=1e-3, abs=1e-4)
    assert result["base_model"] == alone["base_model"]


def test_a_training_goes_on_in_another_place(facts: Path, tmp_path: Path, ray_cluster: None) -> None:
    """Begun on two workers that share the model, continued by one process that has all of it."""
    steps = 60  # the workers go on until the interruption reaches them, and must not be done by then

    def stop(event: Mapping[str, Any]) -> None:
        if event["kind"] == "committed" and event["stage"] == 0:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "a", "{workers: 2, sharding: zero3}", facts, "malmen", stop, steps)
    result = train(tmp_path / "a", "{workers: 0, sharding: none}", facts, "malmen", steps=steps)
    alone = train(tmp_path / "b", "{workers: 0, sharding: none}", facts, "malmen", steps=steps)
    assert result["final"] == pytest.approx(alone["final"], rel=1e-3, abs=1e-4)
    worlds = [commit.world["sharding"] for commit in RunState(StoreAt(str(tmp_path / "a"))(), "t1").commits()]
    assert (worlds[0], worlds[-1]) == ("zero3", "none")
