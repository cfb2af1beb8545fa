"""`elder tune`: search for the best config. Checks everything, runs the search under a live table, names the winner."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.jobs.shared.extras import require, require_for_run
from elder.jobs.shared.options import (
    all_overrides,
    cluster_option,
    config_arguments,
    directory_option,
    json_option,
    write_json,
)
from elder.jobs.shared.running import job_tags, prepare, resume_command, saying_how_to_continue

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.search import TuneConfig


@click.command("tune")
@config_arguments
@cluster_option
@directory_option("--out", help="Where best.yaml and the report go; default: elder-runs/tune/ID.")
@json_option
def command(
    config: str,
    overrides: tuple[str, ...],
    run_id: str | None,
    address: str | None,
    out: Path | None,
    json_file: Path | None,
) -> None:
    """Try configurations of CONFIG (its section `tune` says which), stop bad ones early, repeat the best with other
    seeds, and write the winner as a file for `elder edit`.

    The same command with run_id=ID continues a search; trials that have ended are not run again.
    """
    from elder.jobs.terminal.display import make_console
    from elder.pipelines.config.search import load_tune_config

    given = all_overrides(overrides, run_id, address)
    search = load_tune_config(config, given)
    require_for_run(search.run)
    require("optuna")  # with Ray's own searchers too: importance is judged by it, and it comes with them
    place = out or Path("elder-runs") / "tune" / search.tune_id
    console = make_console()
    result = perform(search, console, place, resume_command("tune", config, given, search.tune_id, out=out))
    write_json(json_file, result)
    closing_page(console, search, result, place)


def perform(search: TuneConfig, console: Console, out: Path, resume: str) -> dict[str, Any]:
    """Check, search, show. Returns the driver's result, with `best.config` the file that was written.

    Raises:
        InputError: Something given is wrong; nothing was started.
        UnreachableError: Store, tracker or cluster does not answer.
        ElderError: No trial came to its end.
    """
    from elder.jobs.shared.preflight import check_inputs
    from elder.jobs.shared.wiring import home, open_tracker
    from elder.jobs.terminal.tune_display import TuneDisplay
    from elder.pipelines.search.driver import run_tune

    inputs, factory = prepare(search.run, console, check_inputs)
    opening_page(console, search, len(inputs.edits), resume)
    display = TuneDisplay(console, search.tune.mode)
    with saying_how_to_continue(resume, lambda: f"{display.done} trials have ended and are recorded"), display:
        result = run_tune(
            search, factory, lambda: open_tracker(search.run), display, cache_dir=home(), out=out, tags=job_tags()
        )
    _write_out(out, factory(), search.tune_id)
    return {**result, "best": {**result["best"], "config": str(out / "best.yaml")}}


def _write_out(out: Path, store: Any, tune_id: str) -> None:
    """A search that had ended before writes its files here again, from the store."""
    if (out / "best.yaml").exists():
        return
    root = f"tunes/{tune_id}/report/"
    for key in store.list(root):
        path = out / key.removeprefix(root)
        path.parent.mkdir(parents=True, exist_ok=True)
        store.download(key, path)


def opening_page(console: Console, search: TuneConfig, edits: int, resume: str) -> None:
    """Print what is about to happen, and how to continue it if it stops."""
    from elder.jobs.terminal.summary import pairs

    run, tune = search.run, search.tune
    stages = -(-edits // run.stream.stage_size)
    repeats = f"; the best {tune.finalists} with {tune.seeds} seeds" if tune.finalists and tune.seeds > 1 else ""
    workers = max(1, run.cluster.workers)
    group = f"{workers} worker{'s' if workers > 1 else ''}, {run.cluster.gpus_per_worker:g} GPUs each"
    pairs(
        console,
        {
            "search": search.tune_id,
            "base model": f"{run.model.source}, {run.model.dtype}",
            "method": run.editor.method,
            "each trial": f"{edits} edits of {run.data.source} in {stages} stages; {group}",
            "trials": f"at most {tune.trials} by {tune.searcher}, scheduler {tune.scheduler}{repeats}",
            "objective": f"{tune.mode} of {_objective(search.metrics)}",
            "store": run.tracking.store,
            "if it stops": resume,
        },
    )
    for key, domain in search.space.items():
        console.print(f"  {key:<28} {domain.kind} {list(domain.values)}", markup=False, highlight=False)
    console.print()


def closing_page(console: Console, search: TuneConfig, result: Mapping[str, Any], out: Path) -> None:
    """Print who won, by how much, and what to do with it."""
    from rich.table import Table

    from elder.jobs.terminal.summary import pairs

    counts = [t["status"] for t in result["trials"]]
    shown = ", ".join(f"{counts.count(s)} {s}" for s in ("finished", "pruned", "failed") if s in counts)
    if result["finalists"]:
        table = Table(title="repeated with other seeds", title_justify="left", box=None, header_style="bold")
        for name in ("rank", "trial", "objectives", "mean", "deviation"):
            table.add_column(name, justify="right")
        for one in result["finalists"]:
            values = " ".join(_figure(value) for value in one["objectives"])
            table.add_row(str(one["rank"]), one["trial"], values, _figure(one["mean"]), _figure(one["spread"]))
        console.print()
        console.print(table)
    best, registered = result["best"], result["registered"]
    rows = {
        "best": f"{best['trial']}, objective {_figure(best['objective'])} ({_objective(search.metrics)})",
        "parameters": ", ".join(f"{key}={value}" for key, value in best["parameters"].items()),
        "trials": f"{shown}; {result['timing']['wall_s']:.0f} s",
        "best config": best["config"],
        "report": str(out / "report.html"),
    }
    if registered:
        rows["registered"] = f"models:/{registered['name']}/{registered['version']}"
    rows["what next"] = f"elder edit {best['config']}"
    console.print()
    pairs(console, rows)


def _objective(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"the harmonic mean of {', '.join(names)}"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
