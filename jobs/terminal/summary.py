"""The first and the last page of a run in the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from elder.jobs.terminal.display import figure, plain_table
from elder.metrics.figures import AMOUNTS, SCOPES, SHARES
from elder.pipelines.config.base import StagedConfig
from elder.pipelines.config.run import RunConfig


def opening_page(console: Console, config: RunConfig, edits: int, resume: str) -> None:
    """Print what is about to happen, and how to continue it if it stops."""
    cluster, tracking = config.cluster, config.tracking
    stages = -(-edits // config.stream.stage_size)
    count = f"{edits} of {config.data.source} in {stages} stages"
    if config.data.known:
        most = "all" if config.data.edits is None else f"at most {config.data.edits}"
        count = f"{most} of {config.data.source}'s {edits} that the base model knows"
    if cluster.workers == 0:
        workers = "this process, without Ray"
    else:
        workers = f"{cluster.workers} ({cluster.gpus_per_worker:g} GPUs each), sharding {cluster.sharding}"
    rows = {
        "run": config.run_id,
        "base model": f"{config.model.source}, {config.model.dtype}",
        "method": config.editor.method,
        "edits": f"{count}, {config.stream.batch_size} a batch",
        "workers": workers,
        "store": tracking.store,
        "mlflow": mlflow_command(config) or "none",
        "if it stops": resume,
    }
    pairs(console, rows)
    console.print()


def closing_page(console: Console, config: RunConfig, result: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
    """Print the results.

    Args:
        console: Where to write.
        config: The resolved config.
        result: The result of the driver (design section 3).
        facts: `answers`: rows with prompt, target, before and after; `report`: where it is; `next`: commands to try.
    """
    console.print()
    console.print(scores(result["final"], config.evaluation.protocols))
    retention(console, result["retention"], config.evaluation.protocols[0])
    answers(console, facts.get("answers") or ())
    rows = {"adapter": f"{result['adapter']['uri']} ({result['adapter']['bytes'] / 2**20:.2f} MiB)"}
    if result.get("registered"):
        rows["registered"] = f"models:/{result['registered']['name']}/{result['registered']['version']}"
    timing = result["timing"]
    rows["speed"] = (
        f"{timing['edits_per_s']:.2f} edits/s; load {timing['load_s']:.1f} s, edit {timing['edit_s']:.1f} s, "
        f"measure {timing['evaluate_s']:.1f} s, commit {timing['commit_s']:.1f} s"
    )
    if facts.get("report"):
        rows["report"] = str(facts["report"])
    opens = mlflow_command(config)
    if opens:
        rows["look at it"] = opens
    for number, line in enumerate(facts.get("next") or ()):
        rows["what next" if number == 0 else " " * number] = line
    console.print()
    pairs(console, rows)


def scores(final: Mapping[str, float], protocols: Sequence[str]) -> Table:
    """Quantities down, protocols across; what was not measured is left out."""
    table = Table(title="after the last stage, over all edits", title_justify="left", box=None, header_style="bold")
    table.add_column("")
    for protocol in protocols:
        table.add_column(protocol, justify="right")
    for quantity in SHARES:
        values = [final.get(f"{quantity}.{protocol}") for protocol in protocols]
        if any(value is not None for value in values):
            table.add_row(quantity, *(figure(value) for value in values))
    for name in SCOPES:
        if final.get(name) is not None:
            table.add_row(f"in scope: {name.removeprefix('scope.')}", figure(final[name]))
    for name in AMOUNTS:
        if final.get(name) is not None:
            table.add_row(name.removeprefix("fluency.").replace("_", " "), f"{final[name]:.2f}")
    return table


def retention(console: Console, matrix: Sequence[Sequence[float]], protocol: str) -> None:
    """The last row of the retention matrix: how much of every stage is kept at the end."""
    if not matrix:
        return
    last = matrix[-1]
    shown = "  ".join(f"{stage}: {figure(value)}" for stage, value in enumerate(last))
    console.print(f"\n[bold]retention[/bold] of the edits of every stage, at the end (reliability.{protocol})")
    console.print(f"  {shown}", highlight=False)


def answers(console: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Prompts with what the model said before and after."""
    if not rows:
        return
    table = plain_table("before and after", "prompt", "asked for", "before", "after")
    for row in rows:
        cells = (row.get(name) for name in ("prompt", "target", "before", "after"))
        table.add_row(*(Text("-" if cell is None else str(cell).strip()) for cell in cells))
    console.print()
    console.print(table)


def pairs(console: Console, rows: Mapping[str, str]) -> None:
    """Names and values; long values stay on one line, so that commands and paths can be copied."""
    for name, value in rows.items():
        line = Text(f"{name.strip():<13} ", style="bold").append(str(value), style="not bold")
        console.print(line, soft_wrap=True, highlight=False)


def mlflow_command(config: StagedConfig) -> str | None:
    """The command or address by which a user looks at the run in MLflow; None without MLflow."""
    if config.tracking.mlflow is None:
        return None
    from elder.infra.tracking.uri import locate

    location = locate(config.tracking.mlflow)
    return location.command or location.uri
