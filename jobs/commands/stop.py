"""`elder stop`: end a job at once; what is committed stays, and the command that continues is named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elder.errors import ElderError
from elder.jobs.remote.lookup import find_job, open_server
from elder.jobs.shared.options import dashboard_option, json_option, write_json

if TYPE_CHECKING:
    from elder.jobs.remote.run_status import RunStatus

PATIENCE_S = 60.0
PENDING_S = 8.0  # Ray cannot end a job whose driver has found no room; it ends as soon as it would start


@click.command("stop")
@click.argument("job_id", metavar="ID")
@dashboard_option
@json_option
def command(job_id: str, address: str | None, json_file: Path | None) -> None:
    """End the job or run ID; of a run, the latest attempt. A job that has ended already is left as it is."""
    from elder.infra.ray_jobs.submit import wait
    from elder.jobs.remote.run_status import run_status_of, sentence

    server = open_server(address)
    job, attempts = find_job(server, job_id)
    already = job.over
    if not already:
        server.stop(job.id)
        ended = wait(server, job.id, PENDING_S if job.status == "PENDING" else PATIENCE_S)
        if ended is not None and ended.status == "PENDING":
            return _not_begun(ended.id, json_file)
        if ended is None or not ended.over:
            raise ElderError(
                f"{job.id} was asked to end {PATIENCE_S:.0f} s ago and has not; the head node may be out of reach: "
                "ask again, or look at the cluster (ray status)"
            )
        job = ended
    progress = run_status_of(job.metadata, attempts.run_id)
    state = sentence(job, progress)
    click.echo(f"{job.id} had ended before: {state}" if already else f"{job.id}: {state}")
    if progress.readable and not already:
        click.echo(committed(progress))
    elif not progress.readable and "elder.store" in job.metadata:
        click.echo(f"the committed stages cannot be read from here: {progress.why}")
    if job.status != "SUCCEEDED" and job.metadata.get("elder.resume"):
        click.echo(f"continue with: {job.metadata['elder.resume']}")
    write_json(
        json_file,
        {"submission_id": job.id, "status": job.status, "had_ended": already, "standing": progress.to_dict()},
    )


def _not_begun(job_id: str, json_file: Path | None) -> None:
    """Explain what becomes of a job that was stopped before its driver had begun."""
    click.echo(
        f"{job_id}: stopped before it began, nothing was committed. Ray lists it as waiting until there is room for "
        "its driver, where it ends at once, or until Ray gives up waiting (15 minutes after it was submitted)"
    )
    write_json(json_file, {"submission_id": job_id, "status": "PENDING", "had_ended": False, "standing": None})


def committed(progress: RunStatus) -> str:
    """The last committed stage: counted from 1 as `elder status` does, and by its name in the store."""
    if progress.runs is not None or progress.trials is not None:
        return f"what is committed is kept: {progress.words(time.time())}"
    if not progress.stages:
        return "no stage was committed"
    of = f" of {progress.of}" if progress.of else ""
    return f"stage {progress.stages}{of} is committed ({progress.edits} edits; stages/{progress.stages - 1:06d})"
