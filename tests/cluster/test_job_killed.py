"""A submitted run whose driver is killed on the cluster: `elder submit --resume` goes on from the last commit."""

from __future__ import annotations

import contextlib
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.cluster.job_head import JobHead
from tests.cluster.nodes import wait_until
from tests.cluster.record import Story
from tests.cluster.test_submit import (  # noqa: F401  # two of them are fixtures
    client_environment,
    commits,
    config,
    elder,
    model,
    wait_for_commit,
)
from tests.jobs.conftest import records, write_jsonl

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(580)]
SLOW = "editor.steps=300"


def undisturbed(config: Path, head: JobHead, directory: Path) -> list[str]:  # noqa: F811
    """State digests of the same run in one process."""
    directory.mkdir()
    write_jsonl(directory / "edits.jsonl", records(8))
    words = ["edit", str(config), SLOW, "--run-id", "k", "tracking.mlflow=null", "cluster.workers=0"]
    environment = client_environment(head, directory, OMP_NUM_THREADS="1")
    done = subprocess.run(
        [sys.executable, "-m", "elder.jobs.main", *words],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return commits(directory, "k")


def test_a_killed_driver_of_a_job_is_resumed(head: JobHead, config: Path, tmp_path: Path) -> None:  # noqa: F811
    """kill -9 of the driver that Ray runs for us, in the middle of a stage; submitted again with --resume."""
    truth = undisturbed(config, head, tmp_path / "truth")
    submit = ("submit", "edit", "run.yaml", SLOW)
    # A head that has just come up answers, but for a moment has no agent that takes jobs.
    wait_until(lambda: elder(head, tmp_path, *submit, "--run-id", "k").returncode == 0, "the head to take the job", 90)
    wait_for_commit(head, tmp_path, "k")
    story = Story("the driver of a submitted job dies (kill -9); elder submit --resume")
    story.strike()
    driver_of("k", head).kill()
    wait_until(lambda: "failed" in elder(head, tmp_path, "status", "k").stdout, "Ray to notice", 60)
    stood = commits(tmp_path, "k")
    assert 1 <= len(stood) < 4
    resumed = elder(head, tmp_path, *submit, "--resume", "k", "--follow")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert commits(tmp_path, "k")[: len(stood)] == stood
    assert commits(tmp_path, "k") == truth
    story.count(truth, commits(tmp_path, "k"))


def driver_of(run: str, cluster: JobHead) -> psutil.Process:
    """The process that Ray started for a submission on this head."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            given = process.environ()
            same = given.get("RAY_ADDRESS", "").rpartition(":")[2] == cluster.gcs.strip().rpartition(":")[2]
            mine = same and given.get("ELDER_SUBMISSION_ID") == run
            if mine and "elder.jobs.main" in process.cmdline():
                return process
    raise AssertionError(f"no driver of {run}")
