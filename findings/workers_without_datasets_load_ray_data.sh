#!/usr/bin/env bash
# Finding: Ray Train starts a process for datasets, and loads ray.data in every worker, for a trainer that has no datasets.
#
# Version:  ray 2.60.0, torch 2.13.0, Python 3.11, CPU, one machine.
# Input:    a TorchTrainer with one worker and no `datasets`; its function looks at its own modules and at the processes.
# Expected: what is not used is not started: no process beside the controller and the worker.
# Seen:     every group of workers gets an actor `DatasetManager` (a Python process of some hundred MB, whose start costs
#           seconds of processor time on a small machine), and ray.data with pyarrow is imported in the worker before the
#           user's function. A group that is started again after a failure gets another one.
# Output:   processes: DatasetManager, worker; ray.data in the worker: True
# Exit:     0 while this is so; 1 when it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy
"$place/venv/bin/pip" install -q "ray[train]==2.60.0" psutil
cat > "$place/seen.py" <<'PYTHON'
import sys
import tempfile
from pathlib import Path

import ray
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

place = Path(tempfile.mkdtemp(dir=sys.argv[1]))


def look() -> None:
    import sys as own

    loaded = "ray.data" in own.modules
    import psutil

    titles = [" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"])]
    manager = any(title.startswith("ray::DatasetManager") for title in titles)
    (place / "seen").write_text(f"{'DatasetManager, ' if manager else ''}worker; ray.data in the worker: {loaded}")


ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
TorchTrainer(
    look, scaling_config=ScalingConfig(num_workers=1), run_config=RunConfig(storage_path=str(place / "train"))
).fit()
line = f"processes: {(place / 'seen').read_text()}"
print(line)
sys.exit(line != "processes: DatasetManager, worker; ray.data in the worker: True")
PYTHON
RAY_TRAIN_V2_ENABLED=1 "$place/venv/bin/python" "$place/seen.py" "$place" 2> /dev/null
