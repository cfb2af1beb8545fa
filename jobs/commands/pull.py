"""`elder pull`: an adapter from MLflow into a directory."""

from __future__ import annotations

import json
from pathlib import Path

import click

from elder.jobs.shared.options import directory_argument, json_option, mlflow_option, write_json


@click.command("pull")
@click.argument("ref", metavar="REF")
@directory_argument
@mlflow_option
@click.option("--store", metavar="URI", help="Store of a large adapter; default: ELDER_STORE.")
@click.option("--s3-endpoint", metavar="URL", help="S3 server of that store; default: AWS_ENDPOINT_URL_S3.")
@json_option
def command(
    ref: str, directory: Path, mlflow: str | None, store: str | None, s3_endpoint: str | None, json_file: Path | None
) -> None:
    """Fetch the adapter REF into DIR and verify it.

    REF is a run id, runs:/ID/stage-0007, models:/NAME/3 or models:/NAME@champion. DIR appears whole or not at all; a
    pull that was cut off continues where it ended.
    """
    from elder.infra.tracking.tracker import pull
    from elder.jobs.shared.wiring import tracking_address

    s3 = {"endpoint_url": s3_endpoint} if s3_endpoint else None
    place = pull(
        ref,
        directory,
        tracking_address(mlflow),
        s3=s3,
        on_wait=lambda text: click.echo(f"note: {text}", err=True),
        store=store,
    )
    manifest = json.loads((place / "manifest.json").read_text(encoding="utf-8"))  # pull has verified every file
    source = manifest.get("base", {}).get("source", "?")
    if manifest.get("kind") == "trained-editor":
        method, steps = manifest.get("method"), manifest.get("steps")
        click.echo(f"{place}: {method} editor, trained for {source} in {steps} steps, files verified")
        click.echo(f"use it: elder edit CONFIG editor.method={method} editor.trained={place}")
    else:
        method, edits = manifest.get("method"), manifest.get("edits")
        click.echo(f"{place}: {method} adapter for {source}, {edits} edits, files verified")
        click.echo(f'python: elder.load_edited("{place}", base="{source}")')
    write_json(json_file, {"ref": ref, "directory": str(place), "manifest": manifest})
