"""Commands that are given at the same moment: `elder edit` twice with one run id, and four runs with one record."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import pytest

from tests.cluster.commands import Command, ends, states
from tests.cluster.nodes import RayNodes, wait_until
from tests.cluster.record import Story
from tests.jobs.conftest import edits_file, model_directory, small_run  # noqa: F401  # fixtures

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(580)]
UNTRACKED = ("tracking.mlflow=null", "tracking.register=null")
TAKEN_OVER = "error: another driver has taken over run 'r'"


@pytest.fixture
def truth(tmp_path: Path, small_run: list[str]) -> list[str]:  # noqa: F811
    """Digests of an undisturbed run in one process."""
    whole = Command(tmp_path / "whole", "edit", "demo", *small_run, *UNTRACKED, "run_id=r")
    assert whole.end() == 0, whole.said
    return states(tmp_path / "whole/elder-runs/store", "r")


def check_two(directory: Path, runs: list[Command], truth: list[str], story: Story) -> None:
    """One has done it, the other has stopped for it, and the result is that of a run alone."""
    codes = ends(runs)
    said = "\n".join(run.said for run in runs)
    assert sorted(codes) == [0, 5], said
    assert TAKEN_OVER in runs[codes.index(5)].said
    assert "continue with" not in runs[codes.index(5)].said
    assert "Traceback" not in said
    store = directory / "elder-runs/store"
    story.count(truth, states(store, "r"))
    assert states(store, "r") == truth
    assert (store / "runs/r/result.json").exists()


def test_two_edits_with_one_run_id_in_their_own_processes(tmp_path: Path, small_run: list[str]) -> None:  # noqa: F811
    """Five times."""
    words = ["edit", "demo", *small_run, *UNTRACKED, "run_id=r", "editor.steps=200"]
    whole = Command(tmp_path / "whole", *words)
    assert whole.end() == 0, whole.said
    truth = states(tmp_path / "whole/elder-runs/store", "r")
    for trial in range(2):
        story = Story(f"two elder edit with one run id at once, workers 0, trial {trial}")
        check_two(tmp_path / str(trial), [Command(tmp_path / str(trial), *words) for _ in range(2)], truth, story)


@pytest.mark.parametrize("late", [True])
def test_two_edits_with_one_run_id_on_a_ray_cluster_with_room_for_one(
    tmp_path: Path,
    small_run: list[str],  # noqa: F811
    cluster: RayNodes,
    late: bool,
) -> None:
    """The second is given with the first, or when that has committed its first stage."""
    story = Story(f"two elder edit with one run id {'in the middle' if late else 'at once'}, room for two workers")
    words = ["edit", "demo", *small_run, *UNTRACKED, "run_id=r", "editor.steps=200", "stream.stage_size=2"]
    words += ["cluster.workers=2", f"cluster.address={cluster.address}"]
    whole = Command(tmp_path / "whole", *words, environment=cluster.environment)
    assert whole.end() == 0, whole.said
    runs = [Command(tmp_path, *words, environment=cluster.environment)]
    if late:
        wait_until(lambda: states(tmp_path / "elder-runs/store", "r") or runs[0].process.poll() is not None, "a stage")
    runs.append(Command(tmp_path, *words, environment=cluster.environment))
    check_two(tmp_path, runs, states(tmp_path / "whole/elder-runs/store", "r"), story)
    newer = next(run for run in runs if run.process.returncode == 0)
    print(newer.said)
    assert "driver 2 of this run; if the one before it is alive, it stops within seconds" in newer.said


@pytest.mark.parametrize("fresh", [False, True])
def test_four_runs_with_one_sqlite_record(
    tmp_path: Path,
    small_run: list[str],  # noqa: F811
    empty_database: Path,
    truth: list[str],
    fresh: bool,
) -> None:
    """Each has its run, metrics and models there; also when the file does not exist yet."""
    database = tmp_path / "record.db"
    if not fresh:
        database.write_bytes(empty_database.read_bytes())
    tracking = (f"tracking.mlflow={database}", "tracking.register=facts")
    story = Story(f"four elder edit with one {'new ' if fresh else ''}sqlite record at once")
    runs = [Command(tmp_path, "edit", "demo", *small_run, *tracking, f"run_id=r{i}") for i in range(4)]
    assert ends(runs) == [0, 0, 0, 0], "\n".join(run.said for run in runs)
    for i in range(4):
        found = states(tmp_path / "elder-runs/store", f"r{i}")
        story.count(truth, found)
        assert found == truth
    check_record(database)


def check_record(database: Path) -> None:
    """Four finished runs, each with every metric once at each step, and four versions of one model."""
    with sqlite3.connect(database) as tables:
        statuses = Counter(status for (status,) in tables.execute("select status from runs"))
        points = Counter(tables.execute("select run_uuid, key, step from metrics where key = 'time.edit_s'"))
        versions = sorted(number for (number,) in tables.execute("select version from model_versions"))
        models = Counter(tables.execute("select experiment_id, status from logged_models"))
    assert statuses == {"FINISHED": 4}
    assert len(points) == 8, points
    assert set(points.values()) == {1}
    assert versions == [1, 2, 3, 4]
    assert list(models.values()) == [8]
