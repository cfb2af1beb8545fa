"""`elder show`: one run as MLflow knows it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from jobs.options import json_option, mlflow_option, write_json

SCORES = tuple(
    f"{quantity}.{protocol}"
    for quantity in ("reliability", "generalization", "locality", "portability")
    for protocol in ("generate", "forced")
)


@click.command("show")
@click.argument("run", metavar="RUN")
@mlflow_option
@json_option
def command(run: str, mlflow: str | None, json_file: Path | None) -> None:
    """Show the stages and metrics of RUN (an elder run id or an MLflow run id)."""
    from infra.mlflow_tracker import show
    from jobs.wiring import tracking_address

    found = show(tracking_address(mlflow), run)
    write_json(json_file, found)
    for name, value in found.items():
        if name not in ("stages", "metrics", "tags"):
            click.echo(f"{name:<16} {'-' if value is None else value}")
    for name, value in found.get("tags", {}).items():
        click.echo(f"{name:<28} {value}")
    _show_stages(found.get("stages") or [])
    click.echo("\nmetrics at the end")
    for name, value in sorted(found.get("metrics", {}).items()):
        click.echo(f"  {name:<28} {value:.4g}")


def _show_stages(stages: Sequence[Mapping[str, Any]]) -> None:
    """One row for each committed stage, with the scores that it has."""
    from rich.table import Table

    from jobs.display import figure, make_console

    names = [name for name in SCORES if any(name in stage["metrics"] for stage in stages)]
    table = Table(box=None, header_style="bold")
    for name in ("stage", "edits", "status", *names):
        table.add_column(name, justify="right")
    for stage in stages:
        own = (figure(stage["metrics"].get(name)) for name in names)
        table.add_row(str(stage["stage"]), str(stage["edits"]), str(stage["status"]), *own)
    console = make_console()
    console.print()
    console.print(table)
