"""The page of a run, or of a registered model, in the terminal, from what MLflow knows. Asks nobody."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from elder.jobs.terminal.display import figure, plain_table
from elder.metrics.figures import SHARES

SCORES = tuple(
    f"{quantity}.{protocol}"
    for quantity in SHARES
    if quantity != "locality_answer"
    for protocol in ("generate", "forced")
) + tuple(f"validation.{name}" for name in ("ES", "GS", "LS", "agreement"))
HEAD = ("name", "run_id", "status", "started", "ended", "experiment", "mlflow_run_id", "url")
BLOCKS = "▁▂▃▄▅▆▇█"
WIDEST_MATRIX = 24  # stages; of a longer run only the last row is drawn
TRIAL_COLUMNS = 6


def run_page(console: Console, run: Mapping[str, Any]) -> None:
    """Facts, stages, curves over the stages, retention, trials, and all scores at the end."""
    for name in HEAD:
        if run.get(name) is not None:
            _pair(console, name.replace("_", " "), run[name])
    for name, value in run.get("tags", {}).items():
        _pair(console, name.removeprefix("elder."), value)
    stages = run.get("stages") or []
    if stages:
        _stages(console, stages)
        _curves(console, stages)
    _retention(console, run.get("retention") or [])
    _trials(console, run.get("trials") or [])
    if run.get("metrics"):
        console.print("\n[bold]metrics at the end[/bold]")
        for name, value in sorted(run["metrics"].items()):
            console.print(f"  {name:<32} {value:.4g}", highlight=False)


def model_page(console: Console, model: Mapping[str, Any]) -> None:
    """Versions with their aliases, and every move of an alias."""
    aliases = ", ".join(f"@{alias} -> {version}" for alias, version in model["aliases"].items())
    _pair(console, "model", f"models:/{model['name']}")
    _pair(console, "aliases", aliases or "none")
    names = _measured(model["versions"])
    table = plain_table(None, "version", "aliases", "run", "stage", "edits", *names)
    for row in model["versions"]:
        marks = " ".join(f"@{alias}" for alias in row["aliases"])
        cells = (row["version"], marks, row["run_id"], row["stage"], row["edits"])
        table.add_row(*map(_cell, cells), *(figure(row["metrics"].get(name)) for name in names))
    console.print()
    console.print(table)
    if not model["history"]:
        return
    moves = plain_table("moves of aliases, the oldest first", "when (UTC)", "what", "who", "why")
    for record in model["history"]:
        before = "none" if record["from"] is None else record["from"]
        what = f"{record['action']}: @{record['alias']} {before} -> {record['to']}"
        if record["forced"]:
            what += f", forced over: {'; '.join(record['failures'])}"
        if not record["done"]:
            what += " (begun, not completed)"
        moves.add_row(*map(Text, (record["when"][:19].replace("T", " "), what, record["who"], record["why"])))
    console.print()
    console.print(moves)


def sparkline(values: Sequence[float | None]) -> str:
    """One block for each value, from the least to the largest; shares are drawn between 0 and 1."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if not known:
        return ""
    low, high = min(known), max(known)
    if low >= 0 and high <= 1:
        low, high = 0.0, 1.0
    span = (high - low) or 1.0
    return "".join(
        " " if value is None or not math.isfinite(value) else BLOCKS[round((value - low) / span * (len(BLOCKS) - 1))]
        for value in values
    )


def _stages(console: Console, stages: Sequence[Mapping[str, Any]]) -> None:
    names = _measured(stages)
    table = plain_table("stages", "stage", "edits", "status", *names, "registered")
    for stage in stages:
        registered = (
            f"models:/{one['name']}/{one['version']}" + "".join(f" @{alias}" for alias in one["aliases"])
            for one in stage.get("registered") or ()
        )
        own = (figure(stage["metrics"].get(name)) for name in names)
        cells = (stage["stage"], stage["edits"], stage["status"])
        table.add_row(*map(_cell, cells), *own, Text(", ".join(registered)))
    console.print()
    console.print(table)


def _curves(console: Console, stages: Sequence[Mapping[str, Any]]) -> None:
    """A line for each score; nothing for a single stage."""
    if len(stages) < 2:
        return
    names = sorted({name for stage in stages for name in stage["metrics"]})
    console.print("\n[bold]over the stages[/bold]")
    for name in (name for name in (*SCORES, "perplexity") if name in names):
        values = [stage["metrics"].get(name) for stage in stages]
        known = [value for value in values if value is not None]
        text = f"  {name:<24} {sparkline(values)}  {known[0]:.3f} -> {known[-1]:.3f}, least {min(known):.3f}"
        console.print(text, markup=False, highlight=False)


def _retention(console: Console, matrix: Sequence[Sequence[float]]) -> None:
    """Rows: after a stage; columns: the edits of each stage so far, in percent; red is forgotten."""
    if not matrix:
        return
    console.print("\n[bold]retention[/bold]: the edits of every stage (columns), after every stage (rows), in percent")
    rows = list(enumerate(matrix)) if len(matrix) <= WIDEST_MATRIX else [(len(matrix) - 1, matrix[-1])]
    for number, row in rows:
        line = Text(f"  {number:>4} ")
        for value in row:
            line.append(f"{100 * value:>4.0f} ", style=_heat(value))
        console.print(line, soft_wrap=True)


def _trials(console: Console, trials: Sequence[Mapping[str, Any]]) -> None:
    if not trials:
        return
    counts = _measured(trials)
    params = list(dict.fromkeys(key for trial in trials for key in trial["params"]))[:TRIAL_COLUMNS]
    table = plain_table(f"{len(trials)} trials", "trial", "status", "stages", *params, *counts)
    for trial in trials:
        cells = (trial["run_id"], trial["status"], trial["stages"], *(trial["params"].get(key) for key in params))
        table.add_row(*map(_cell, cells), *(figure(trial["metrics"].get(name)) for name in counts))
    console.print()
    console.print(table)


def _measured(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """The scores that any of the rows has."""
    return [name for name in SCORES if any(name in row["metrics"] for row in rows)]


def _heat(value: float) -> str:
    """White on a background between red (0) and green (1)."""
    share = min(max(value, 0.0), 1.0) if math.isfinite(value) else 0.0
    return f"white on rgb({round(170 * (1 - share))},{round(110 * share)},30)"


def _cell(value: object) -> Text:
    return Text("-" if value is None else str(value))


def _pair(console: Console, name: str, value: object) -> None:
    line = Text(f"{name:<16}", style="bold").append(str(value), style="not bold")
    console.print(line, soft_wrap=True, highlight=False)
