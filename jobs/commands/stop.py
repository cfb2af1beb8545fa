"""`elder stop`: end a job at once; what is committed stays, and the command that goes on is named."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elder.errors import ElderError
from elder.jobs.remote.lookup import address_option, find_job, open_server
from elder.jobs.shared.options import json_option, write_json

if TYPE_CHECKING:
    from elder.jobs.remote.run_status import RunStatus

PATIENCE_S = 60.0
PENDING_S = 8.0  # Ray cannot end a job whose driver has found no room; it ends as soon as it would start


@click.command("stop")
@click.argument("job_id", metavar="ID")
@address_option
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
                f"{job.id} was told to end {PATIENCE_S:.0f} s ago and has not; the head node may be out of reach: "
                "ask again, or look at the cluster (ray status)"
            )
        job = ended
    standing = run_status_of(job.metadata, attempts.run_id)
    told = sentence(job, standing)
    click.echo(f"{job.id} had ended before: {told}" if already else f"{job.id}: {told}")
    if standing.readable and not already:
        click.echo(stands(standing))
    elif not standing.readable and "elder.store" in job.metadata:
        click.echo(f"which stage stands cannot be read from here: {standing.why}")
    if job.status != "SUCCEEDED" and job.metadata.get("elder.resume"):
        click.echo(f"go on with: {job.metadata['elder.resume']}")
    write_json(
        json_file,
        {"submission_id": job.id, "status": job.status, "had_ended": already, "standing": standing.to_dict()},
    )


def _not_begun(job_id: str, json_file: Path | None) -> None:
    """Say what becomes of a job that was stopped before its driver had begun."""
    click.echo(
        f"{job_id}: stopped before it began, nothing was committed. Ray lists it as waiting until there is room for "
        "its driver, where it ends at once, or until Ray gives up waiting (15 minutes after it was submitted)"
    )
    write_json(json_file, {"submission_id": job_id, "status": "PENDING", "had_ended": False, "standing": None})


def stands(standing: RunStatus) -> str:
    """Which stage stands: counted from 1 as `elder status` does, and by its name in the store."""
    if standing.runs is not None or standing.trials is not None:
        return f"what is committed stands: {standing.words(time.time())}"
    if not standing.stages:
        return "no stage was committed"
    of = f" of {standing.of}" if standing.of else ""
    return f"stage {standing.stages}{of} stands committed ({standing.edits} edits; stages/{standing.stages - 1:06d})"
