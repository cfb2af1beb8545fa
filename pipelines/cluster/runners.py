"""Which runner does the stages of a run."""

from __future__ import annotations

from elder.pipelines.config.base import StagedConfig
from elder.pipelines.run.driver import Runner


def choose_runner(config: StagedConfig) -> Runner:
    """This process for `workers: 0`, else Ray Train."""
    if config.cluster.workers == 0:
        from elder.pipelines.run.local_runner import run_locally

        return run_locally
    from elder.pipelines.cluster.ray_train import run_on_ray

    return run_on_ray
