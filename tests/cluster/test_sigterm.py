"""SIGTERM of a driver on Ray: what closes a run may take longer than the three seconds that Ray gives a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import os, signal, sys, time
from elder.pipelines.cluster.ray_train import connection
from elder.pipelines.config.run import ClusterConfig

class Ended(BaseException):
    pass

def end(number, frame):
    raise Ended

signal.signal(signal.SIGTERM, end)
with connection(ClusterConfig(workers=1), {}, print):
    try:
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(60)
    except Ended:
        time.sleep(5)  # closing
        print("closed", flush=True)
sys.exit(143)
"""


def test_a_driver_has_time_to_close_its_record(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-c", DRIVER], cwd=tmp_path, env=environment, text=True, capture_output=True, timeout=180
    )
    assert (done.returncode, done.stdout.strip()) == (143, "closed"), done.stderr
