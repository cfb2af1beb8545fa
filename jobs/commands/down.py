"""`elder down`: end the development services, and nothing else."""

from __future__ import annotations

from pathlib import Path

import click

from elder.jobs.commands.up import DIRECTORY
from elder.jobs.shared.options import directory_option


@click.command("down")
@directory_option("--dir", "directory", default=DIRECTORY, show_default=True, help="The directory of `elder up`.")
@click.option("--purge", is_flag=True, help="Remove their data, keys and logs, too.")
def command(directory: Path, purge: bool) -> None:
    """End the servers that `elder up` started in DIR; their data stay unless --purge is given."""
    from elder.infra.dev.services import take_down

    ended = take_down(directory, purge, click.echo)
    if not ended:
        click.echo(f"nothing of {directory} was running")
    if purge:
        click.echo(f"removed the data, keys and logs of the services in {directory}")
