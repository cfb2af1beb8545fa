"""SIGTERM, as systemd and Kubernetes send it: the record is closed, what is committed is said, exit code 143."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.jobs.conftest import ROOT, Elder, records, write_jsonl

WAIT_S = 120


def test_a_plain_run_closes_its_record(elder: Elder, small_run: list[str], tmp_path: Path) -> None:
    write_jsonl(tmp_path / "edits.jsonl", records(400))
    tracking = (f"tracking.mlflow={tmp_path / 'runs.db'}", "tracking.register=null")
    given = ["edit", "demo", *small_run, *tracking, "evaluation.retention=sample", "run_id=ended"]
    command = [sys.executable, "-m", "elder.jobs.main", *given]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("ELDER_SUBMISSION_ID", None)
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as run:
        stages, until = tmp_path / "elder-runs/store/runs/ended/stages", time.monotonic() + WAIT_S
        while not list(stages.glob("*/COMMIT.json")):
            assert run.poll() is None, run.communicate()[1]
            assert time.monotonic() < until
            time.sleep(0.05)
        run.send_signal(signal.SIGTERM)
        time.sleep(0.2)
        run.send_signal(signal.SIGTERM)  # an impatient supervisor cuts nothing off
        _, said = run.communicate(timeout=WAIT_S)
    committed = len(list(stages.glob("*/COMMIT.json")))
    assert run.returncode == 143, said
    assert f"stage {committed - 1} is committed ({4 * committed} edits)" in said
    assert "continue with: elder edit demo" in said
    assert said.rstrip().endswith("interrupted by SIGTERM")
    assert "Traceback" not in said
    assert committed < 100
    shown = elder("show", "ended", "--mlflow", tmp_path / "runs.db")
    assert "KILLED" in shown.out
