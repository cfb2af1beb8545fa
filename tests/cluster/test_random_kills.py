"""`elder edit` with two Ray workers is killed at random moments and given again each time."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.cluster.commands import Command, commits, states
from tests.cluster.nodes import RayNodes, wait_until
from tests.cluster.record import Story
from tests.jobs.conftest import edits_file, model_directory, records, small_run, write_jsonl  # noqa: F401  # fixtures

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(580)]
KILLS, STAGES = 2, 6
SHAPE = ("stream.stage_size=1", "stream.batch_size=1", "editor.steps=30", "run_id=r")
RAY = ("cluster.workers=2", "tracking.mlflow=null", "tracking.register=null")


@pytest.mark.parametrize("seed", [0])
def test_a_run_killed_again_and_again_ends_in_the_same_state(
    tmp_path: Path,
    small_run: list[str],  # noqa: F811
    cluster: RayNodes,
    seed: int,
) -> None:
    """Every other time while the workers start or load, else while they edit, measure or commit."""
    write_jsonl(tmp_path / "edits.jsonl", records(STAGES))
    words = ["edit", "demo", *small_run, *RAY, *SHAPE, f"cluster.address={cluster.address}"]
    whole = Command(tmp_path / "whole", *words, environment=cluster.environment)
    assert whole.end() == 0, whole.said
    truth = states(tmp_path / "whole/elder-runs/store", "r")
    store, draw = tmp_path / "elder-runs/store", random.Random(seed)
    story = Story(f"kill -9 of elder edit with two Ray workers, {KILLS} random moments, seed {seed}")
    for number in range(KILLS):
        before = len(commits(store, "r"))
        run = Command(tmp_path, *words, environment=cluster.environment)
        phase = ("start the workers", "load the base model")[number % 2]
        wait_until(lambda run=run, phase=phase: phase in run.said or run.process.poll() is not None, phase)
        moment = draw.uniform(0, 8)
        time.sleep(moment)
        assert run.kill(), f"it ended by itself with {run.process.returncode}:\n{run.said}"
        done = len(commits(store, "r"))
        print(f"seed {seed}, kill {number}: {moment:.1f} s after '{phase}', {before} -> {done} of {len(truth)} stages")
    last = Command(tmp_path, *words, environment=cluster.environment)
    assert last.end() == 0, last.said
    story.count(truth, states(store, "r"))
    assert states(store, "r") == truth
    assert (store / "runs/r/result.json").exists()
