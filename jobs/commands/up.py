"""`elder up`: development services on this machine, an S3 server and an MLflow server."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elder.jobs.shared.options import directory_option, json_option, write_json

if TYPE_CHECKING:
    from elder.infra.dev.service_files import Services

DIRECTORY = Path("elder-runs/services")
PORT = click.IntRange(1, 65535)


@click.command("up")
@directory_option("--dir", "directory", default=DIRECTORY, show_default=True, help="Data, logs and keys lie here.")
@click.option("--s3-port", metavar="PORT", type=PORT, help="Default: that of last time, or a free one.")
@click.option("--mlflow-port", metavar="PORT", type=PORT, help="The same for MLflow.")
@click.option("--show-secrets", is_flag=True, help="Print the keys, too; they are in DIR/env.sh in any case.")
@json_option
def command(
    directory: Path, s3_port: int | None, mlflow_port: int | None, show_secrets: bool, json_file: Path | None
) -> None:
    """Start an S3 server and an MLflow server on 127.0.0.1, or find them running.

    For development, not for a network: see docs/operations.md. `elder down` ends exactly these servers.
    """
    from elder.infra.dev.services import bring_up

    services = bring_up(directory, os.environ, s3_port, mlflow_port, click.echo)
    _explain(directory, services, show_secrets)
    write_json(json_file, _result(services))


def _explain(directory: Path, services: Services, show_secrets: bool) -> None:
    if not services.keeps_objects:
        click.echo("note    this S3 server (moto) keeps nothing on disk and takes any key")
    chosen = "" if directory == DIRECTORY else f" --dir {directory}"
    click.echo(f"keys    source {directory}/env.sh")
    if show_secrets:
        for name, value in services.exports.items():
            click.echo(f"        {name}={value}")
    click.echo(f"run     elder edit demo $(cat {directory}/overrides.txt)")
    for override in services.overrides:
        click.echo(f"        {override}")
    click.echo(f"logs    {directory}/logs")
    click.echo(f"end     elder down{chosen}           # keeps the data; --purge removes them")


def _result(services: Services) -> dict[str, object]:
    parts = {
        service.name: {
            "url": service.url,
            "kind": service.kind,
            "pid": service.process.pid,
            "started": service.name in services.fresh,
        }
        for service in (services.s3, services.mlflow)
    }
    return {
        "directory": str(services.directory),
        **parts,
        "keeps_objects": services.keeps_objects,
        "overrides": services.overrides,
        "env_file": str(services.directory / "env.sh"),
    }
