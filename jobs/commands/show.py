"""`elder show`: one run as MLflow knows it, or one registered model with the history of its aliases."""

from __future__ import annotations

from pathlib import Path

import click

from elder.jobs.shared.options import json_option, mlflow_option, write_json


@click.command("show")
@click.argument("run", metavar="RUN")
@mlflow_option
@json_option
def command(run: str, mlflow: str | None, json_file: Path | None) -> None:
    """Show RUN (an elder run id or an MLflow run id), or the registered model models:/NAME.

    A run: stages, curves, retention, trials. A model: versions, aliases, and who moved them when and why.
    """
    from elder.infra.tracking.tracker import show
    from elder.jobs.shared.wiring import tracking_address
    from elder.jobs.terminal.display import make_console
    from elder.jobs.terminal.run_page import model_page, run_page

    found = show(tracking_address(mlflow), run)
    write_json(json_file, found)
    page = model_page if "history" in found else run_page
    page(make_console(), found)
