"""`elder pull`: an adapter from MLflow into a directory."""

from __future__ import annotations

from pathlib import Path

import click

from jobs.options import json_option, mlflow_option, write_json


@click.command("pull")
@click.argument("ref", metavar="REF")
@click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
@mlflow_option
@click.option("--s3-endpoint", metavar="URL", help="S3 server of a large adapter, where it has another address here.")
@json_option
def command(ref: str, directory: Path, mlflow: str | None, s3_endpoint: str | None, json_file: Path | None) -> None:
    """Fetch the adapter REF into DIR and verify it.

    REF is a run id, runs:/ID/stage-0007, models:/NAME/3 or models:/NAME@champion. DIR appears whole or not at all; a
    pull that was cut off goes on where it ended.
    """
    from elder.adapter import verify
    from infra.mlflow_tracker import pull
    from jobs.wiring import tracking_address

    s3 = {"endpoint_url": s3_endpoint} if s3_endpoint else None
    note = lambda text: click.echo(f"note: {text}", err=True)  # noqa: E731
    place = pull(ref, directory, tracking_address(mlflow), s3=s3, on_wait=note)
    manifest = verify(place)
    source = manifest.get("base", {}).get("source", "?")
    click.echo(f"{place}: {manifest.get('method')} adapter for {source}, {manifest.get('edits')} edits, files verified")
    click.echo(f'python: elder.load_edited("{place}", base="{source}")')
    write_json(json_file, {"ref": ref, "directory": str(place), "manifest": manifest})
