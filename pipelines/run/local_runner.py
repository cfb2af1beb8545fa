"""Runs a job in this process, without Ray: one worker, whole model. For tests, notebooks and `workers: 0`.

Must not know Ray or DeepSpeed.
"""

from __future__ import annotations

from elder.device import pick_device
from elder.pipelines.run.run_stages import run_stages
from elder.pipelines.run.spec import EventHandler, RunSpec
from elder.runtime import LocalRuntime


def run_locally(job: RunSpec, report: EventHandler) -> None:
    """Bring the run to its last stage; events come as they happen.

    Raises:
        ElderError: As `pipelines.run.run_stages.run_stages`.
    """
    run_stages(job, LocalRuntime(pick_device(job.config.model.device)), report)
