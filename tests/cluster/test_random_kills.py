"""`elder edit` with two Ray workers is killed at random moments, twelve times in all, and given again each time."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.cluster.commands import Command, commits, states
from tests.cluster.record import Story
from tests.jobs.conftest import edits_file, model_directory, small_run  # noqa: F401  # fixtures

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(580)]
KILLS = 3  # of each run
RAY = (
    "cluster.workers=2",
    "cluster.address=local",
    "stream.stage_size=2",
    "tracking.mlflow=null",
    "tracking.register=null",
)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[float, list[str]]]:
    """Seconds and digests of an undisturbed run, once it is there."""
    return {}


@pytest.mark.parametrize("seed", range(4))
def test_a_run_killed_three_times_ends_in_the_same_state(
    tmp_path: Path,
    small_run: list[str],  # noqa: F811
    tmp_path_factory: pytest.TempPathFactory,
    given: dict[str, tuple[float, list[str]]],
    seed: int,
) -> None:
    words = ["edit", "demo", *small_run, *RAY, "run_id=r", "editor.steps=60"]
    if not given:
        whole, begin = tmp_path_factory.mktemp("whole"), time.monotonic()
        assert Command(whole, *words).end() == 0
        given["whole"] = time.monotonic() - begin, states(whole / "elder-runs/store", "r")
    seconds, truth = given["whole"]
    store, draw, struck = tmp_path / "elder-runs/store", random.Random(seed), 0
    story = Story(f"kill -9 of elder edit with two workers at random moments, run {seed}")
    while struck < KILLS:
        run, moment = Command(tmp_path, *words), draw.uniform(0, seconds)
        time.sleep(moment)
        if not run.kill():
            assert run.end() == 0, run.said
            break
        struck += 1
        done = len(commits(store, "r"))
        print(f"run {seed}: killed after {moment:.1f} of {seconds:.1f} s, {done} of {len(truth)} stages committed")
    last = Command(tmp_path, *words)
    assert last.end() == 0, last.said
    story.count(truth, states(store, "r"))
    assert states(store, "r") == truth
    assert (store / "runs/r/result.json").exists()
    assert struck == KILLS, "the run ended before it was killed so often; take another seed"
