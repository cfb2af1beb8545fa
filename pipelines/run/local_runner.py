"""Runs a job in this process, without Ray: one worker, whole model. For tests, notebooks and `workers: 0`.

Must not know Ray or DeepSpeed.
"""

from __future__ import annotations

from elder.device import pick_device
from elder.pipelines.run.run_stages import run_stages
from elder.pipelines.run.spec import Event, EventHandler, RunSpec
from elder.pipelines.run.takeover import TakeoverWatch
from elder.runtime import LocalRuntime


def run_locally(job: RunSpec, report: EventHandler) -> None:
    """Bring the run to its last stage; events come as they happen.

    Raises:
        ElderError: As `pipelines.run.run_stages.run_stages`.
        RunTakenOver: Another driver has been started.
    """
    with TakeoverWatch(job) as watch:

        def hear(event: Event) -> None:
            watch.check()  # every batch and every measured prompt comes by
            report(event)

        run_stages(job, LocalRuntime(pick_device(job.config.model.device)), hear)
