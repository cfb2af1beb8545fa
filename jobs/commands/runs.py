"""`elder runs`: the runs that MLflow knows."""

from __future__ import annotations

from pathlib import Path

import click

from elder.jobs.shared.options import json_option, limit_option, mlflow_option, write_json


@click.command("runs")
@mlflow_option
@click.option("--experiment", metavar="NAME", help="Only this experiment.")
@limit_option
@click.option("--all", "trials", is_flag=True, help="List the trials of searches too, not only their number.")
@json_option
def command(mlflow: str | None, experiment: str | None, limit: int, trials: bool, json_file: Path | None) -> None:
    """List runs, the newest first."""
    from elder.infra.tracking.tracker import runs
    from elder.jobs.shared.wiring import tracking_address
    from elder.jobs.terminal.display import make_console, plain_table

    found = runs(tracking_address(mlflow), experiment=experiment, limit=limit, trials=trials)
    write_json(json_file, {"runs": found})
    if not found:
        click.echo("no runs yet; `elder demo` makes one")
        return
    columns = [name for name in found[0] if name != "metrics"]
    if not any(row["trials"] for row in found):
        columns.remove("trials")
    table = plain_table(None, *columns)
    for row in found:
        table.add_row(*(str(row.get(name, "")) for name in columns))
    make_console().print(table)
