"""`elder status`: the state of a Ray job joined with the last committed stage of its run."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elder.jobs.remote.lookup import exit_code_of, find_job, open_server, with_address
from elder.jobs.shared.options import dashboard_option, json_option, write_json

if TYPE_CHECKING:
    from elder.infra.ray_jobs.server import JobRecord, JobServer


@click.command("status")
@click.argument("job_id", metavar="ID")
@dashboard_option
@json_option
def command(job_id: str, address: str | None, json_file: Path | None) -> None:
    """Show the status of the job or run ID; of a run, that of the latest attempt."""
    from elder.jobs.remote.run_status import SUITE_FOLDERS, last_lines, quiet_warning, run_status_of, sentence

    server = open_server(address)
    job, attempts = find_job(server, job_id)
    progress = run_status_of(job.metadata, attempts.run_id)
    state = sentence(job, progress)
    warning = quiet_warning(job, progress)
    click.echo(f"{job.id}: {state}")
    if warning:
        click.echo(f"warning: {warning}")
    lines: list[str] = []
    if job.status == "PENDING":
        for line in waiting_for(server, job):
            click.echo(f"  {line}")
    elif not progress.readable or job.status == "FAILED":
        lines = last_lines(server.logs(job.id))
        if not progress.readable and "elder.store" in job.metadata:
            click.echo(f"  its store cannot be read from here: {progress.why}")
        if lines:
            click.echo("  the end of its log:")
        for line in lines:
            click.echo(f"    {line}")
        if job.status == "FAILED" and job.exit_code is None and job.message:
            click.echo(f"  Ray says: {job.message.strip().splitlines()[-1]}")
    for name, key in (
        ("store", "elder.store"),
        ("mlflow", "elder.mlflow"),
        ("by", "elder.user"),
        ("code", "elder.code"),
    ):
        if job.metadata.get(key):
            click.echo(f"  {name:<8} {job.metadata[key]}")
    folder = SUITE_FOLDERS.get(job.metadata.get("elder.command", ""))
    if folder and job.over and "elder.store" in job.metadata:
        click.echo(f"  report   {job.metadata['elder.store']}/{folder}/{attempts.run_id}/report/report.html")
    if len(attempts.jobs) > 1:
        click.echo(f"  attempts {', '.join(f'{one.id} {one.status}' for one in attempts.jobs)}")
    if not job.over:
        click.echo(f"  follow   {with_address(f'elder logs -f {job.id}', server)}")
    elif exit_code_of(job) and job.metadata.get("elder.resume"):
        click.echo(f"  continue {job.metadata['elder.resume']}")
    write_json(
        json_file,
        {
            "run_id": attempts.run_id,
            "state": state,
            "warning": warning,
            "job": asdict(job),
            "standing": progress.to_dict(),
            "attempts": [{"id": one.id, "status": one.status} for one in attempts.jobs],
            "log": lines,
        },
    )


def waiting_for(server: JobServer, job: JobRecord) -> list[str]:
    """Why a job has not started, as far as Ray knows."""
    lines = [line.strip() for line in job.message.splitlines() if line.strip()]
    there = server.resources()
    if there:
        has = ", ".join(
            f"{total - used:g} of {total:g} {name}" for name, (used, total) in there.items() if name in ("CPU", "GPU")
        )
        lines.append(f"free on the cluster now: {has}")
    return lines
