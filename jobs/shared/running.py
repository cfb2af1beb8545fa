"""What the commands that run something share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from elder.pipelines.config.base import StagedConfig

if TYPE_CHECKING:
    from rich.console import Console


def job_tags() -> dict[str, str]:
    """Tags of the tracked run that say which Ray job it was, if it is one."""
    submission = os.environ.get("ELDER_SUBMISSION_ID")
    return {"ray.submission_id": submission} if submission else {}


def show_world(config: StagedConfig, console: Console) -> None:
    """Train the embedded model where it can be watched, if the config names it and it is not cached."""
    from elder.jobs.shared.preflight import cached_world, prepare_world
    from elder.jobs.terminal.display import training_progress

    source = config.model.source
    if not source.startswith("world:") or cached_world(source) is not None:
        return
    console.print(f"{source}: training its model once (1 to 2 minutes); later runs find it cached", markup=False)
    with training_progress(console) as step:
        prepare_world(config, step)


def report_place(store_uri: str, run_id: str) -> str:
    """Where the report lies: a path for a directory store, an address otherwise."""
    return f"{store_uri.removeprefix('file://').rstrip('/')}/runs/{run_id}/report/"
