"""`elder logs`: the output of a job's driver."""

from __future__ import annotations

import click

from elder.jobs.remote.lookup import find_job, open_server, write_log
from elder.jobs.shared.options import dashboard_option


@click.command("logs")
@click.argument("job_id", metavar="ID")
@click.option("--follow", "-f", is_flag=True, help="Follow the log as it grows; end with the job's exit code.")
@dashboard_option
def command(job_id: str, follow: bool, address: str | None) -> int:
    """Print the log of the job or run ID; of a run, the latest attempt's."""
    from elder.jobs.commands.submit import follow_to_the_end

    server = open_server(address)
    job, _ = find_job(server, job_id)
    if follow and not job.over:
        return follow_to_the_end(job.id, server.address)[0]
    write_log(server.logs(job.id))
    return 0
