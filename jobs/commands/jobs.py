"""`elder jobs`: the jobs of a Ray cluster."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import click

from elder.jobs.remote.lookup import open_server, run_of
from elder.jobs.shared.options import dashboard_option, json_option, limit_option, write_json


@click.command("jobs")
@dashboard_option
@click.option("--all", "everyone", is_flag=True, help="Also jobs that elder has not submitted.")
@limit_option
@json_option
def command(address: str | None, everyone: bool, limit: int, json_file: Path | None) -> None:
    """List the jobs of the cluster at --address, the newest first."""
    from elder.jobs.remote.run_status import RunStatus, duration, run_status_of
    from elder.jobs.terminal.columns import aligned

    server = open_server(address)
    known = sorted(server.jobs(), key=lambda job: -(job.started or 0))
    shown = [job for job in known if everyone or "elder.run_id" in job.metadata][:limit]
    rows, found = [], []
    for job in shown:
        # Stages are read where that costs nothing (a directory), and for what runs now.
        near = not job.metadata.get("elder.store", "").startswith("s3://")
        progress = run_status_of(job.metadata, run_of(job)) if near or not job.over else RunStatus()
        stages = progress.words(time.time()) if progress.readable else "-"
        started = f"{duration(time.time() - job.started)} ago" if job.started else "-"
        rows.append((job.id, job.metadata.get("elder.command", "-"), job.status, started, stages))
        found.append({**asdict(job), "standing": progress.to_dict() if progress.readable else None})
    write_json(json_file, {"address": server.address, "jobs": found})
    if not rows:
        others = f" ({len(known)} that elder has not submitted: --all)" if known else ""
        click.echo(f"no jobs on {server.address}{others}")
        return
    for line in aligned([("id", "command", "state", "started", "last stage"), *rows]):
        click.echo(line)
