"""Runs a job in this process, without Ray: one worker, whole model. For tests, notebooks and `workers: 0`.

Must not know Ray or DeepSpeed.
"""

from __future__ import annotations

from elder.device import pick_device
from elder.runtime import LocalRuntime
from pipelines.job import Job, Report
from pipelines.worker import run_stages


def run_locally(job: Job, report: Report) -> None:
    """Bring the run to its last stage; events come as they happen.

    Raises:
        ElderError: As `pipelines.worker.run_stages`.
    """
    run_stages(job, LocalRuntime(pick_device(job.config.model.device)), report)
