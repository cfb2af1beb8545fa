"""`elder compare`: the same stream under several methods. Checks everything, runs them, prints one table."""

from __future__ import annotations

import os
import shlex
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.errors import InputError
from jobs.options import all_overrides, check_json_target, config_arguments, json_option, write_json
from pipelines.strategies import STRATEGIES

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.compare_config import CompareConfig
    from pipelines.fleet_driver import Came


@click.command("compare")
@config_arguments
@click.option("--methods", metavar="A,B,C", help="Which methods; default: those of the section `compare`.")
@click.option("--strategy", type=click.Choice(STRATEGIES), help="Short for compare.strategy=...")
@click.option("--parallel", type=click.IntRange(min=1), metavar="N", help="Methods at the same time on a cluster.")
@click.option("--address", metavar="URL", help="Short for cluster.address=URL: auto, local or a Ray address.")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the report goes; default: elder-runs/compare/ID.",
)
@json_option
def command(
    config: str,
    overrides: tuple[str, ...],
    run_id: str | None,
    methods: str | None,
    strategy: str | None,
    parallel: int | None,
    address: str | None,
    out: Path | None,
    json_file: Path | None,
) -> None:
    """Run the edits of CONFIG under each method, with the same order, stages and seed, and print one table.

    A method that fails does not stop the others; the exit code is then 1, or 4 when only gates refused. The same
    command with run_id=ID continues: methods that have finished are not run again.
    """
    from jobs.display import make_console
    from pipelines.compare_config import load_compare_config
    from pipelines.fleet import outcome_error

    check_json_target(json_file)
    given = all_overrides(overrides, run_id, address)
    given += [] if strategy is None else [f"compare.strategy={strategy}"]
    names = [name.strip() for name in (methods or "").split(",") if name.strip()]
    compare = load_compare_config(config, given, names)
    place = out or Path("elder-runs") / "compare" / compare.compare_id
    console = make_console()
    extra = [] if methods is None else ["--methods", methods]
    extra += [] if out is None else ["--out", str(out)]
    comparison = perform(compare, console, place, parallel, resume_command(config, given, compare.compare_id, extra))
    write_json(json_file, comparison.result)
    closing_page(console, comparison.result, place)
    error = outcome_error(comparison.ended)
    if error is not None:
        raise error


def perform(compare: CompareConfig, console: Console, out: Path, parallel: int | None, resume: str) -> Came:
    """Check, run, show.

    Raises:
        InputError: Something given is wrong; nothing was started.
        UnreachableError: Store, tracker or cluster does not answer.
    """
    from jobs.edit import job_tags, show_world
    from jobs.preflight import check_inputs, check_places
    from jobs.wiring import home, make_store_factory, open_tracker, quiet_libraries
    from pipelines.compare_driver import run_compare
    from pipelines.fleet_driver import Outside

    run = compare.run
    quiet_libraries(run)
    show_world(run, console)
    inputs = check_inputs(run)
    factory = make_store_factory(run)
    check_places(factory())
    opening_page(console, compare, len(inputs.edits), resume)
    try:
        outside = Outside(
            factory, lambda: open_tracker(run), FleetLines(console), parallel, home(), out, tags=job_tags()
        )
        return run_compare(compare, outside)
    except InputError:
        raise  # nothing was started
    except BaseException:
        click.echo(f"what is committed stands; continue with: {resume}", err=True)
        raise


class FleetLines:
    """Events of several runs as lines, each with the name of its run in front."""

    def __init__(self, console: Console) -> None:
        self._console, self._begun, self._lock = console, time.monotonic(), threading.Lock()

    def __call__(self, event: Mapping[str, Any]) -> None:
        """Show one event; kinds that are not known are passed over."""
        who = f"{event['member']}: " if event.get("member") else ""
        if event.get("kind") == "note":
            self._line(f"{who}{event['text']}")
        elif event.get("kind") == "committed":
            self._line(f"{who}stage {event['stage']} committed, {event['edits']} edits; {headline(event['metrics'])}")
        elif event.get("kind") == "member":
            why = f": {event['error'].splitlines()[0]}" if event.get("error") else ""
            self._line(f"{event['name']} {event['status']} ({event['done']} of {event['of']} done){why}")

    def _line(self, text: str) -> None:
        elapsed = time.monotonic() - self._begun
        with self._lock:
            self._console.print(f"[{elapsed:7.1f}s] {text}", markup=False, highlight=False, soft_wrap=True)


def headline(metrics: Mapping[str, float]) -> str:
    """The first figures of a stage in a line."""
    from pipelines.compare_result import shown_metrics

    names = [name for name in shown_metrics([metrics]) if name.startswith(("reliability", "locality", "counterfact.S"))]
    return ", ".join(f"{name} {metrics[name]:.3f}" for name in names[:4])


def resume_command(argument: str, overrides: Sequence[str], run_id: str, extra: Sequence[str]) -> str:
    """The command that continues a comparison."""
    submitted = os.environ.get("ELDER_RESUME")  # inside a Ray job the user goes on by submitting again
    if submitted:
        return submitted
    kept = [text for text in overrides if not text.startswith("run_id=")]
    return shlex.join(["elder", "compare", argument, *kept, f"run_id={run_id}", *extra])


def opening_page(console: Console, compare: CompareConfig, edits: int, resume: str) -> None:
    """What is about to happen, and how to continue it if it stops."""
    from jobs.closing import pairs
    from pipelines.strategies import MEANINGS

    run, stream = compare.run, compare.members[0].config.stream
    strategy = compare.compare.strategy
    pairs(
        console,
        {
            "comparison": compare.compare_id,
            "base model": f"{run.model.source}, {run.model.dtype}",
            "methods": ", ".join(member.name for member in compare.members),
            "edits": f"{edits} of {run.data.source}, stages of {stream.stage_size}, {stream.batch_size} a batch",
            "strategy": f"{strategy}: {MEANINGS[strategy]}",
            "store": run.tracking.store,
            "if it stops": resume,
        },
    )
    console.print()


def closing_page(console: Console, result: Mapping[str, Any], out: Path) -> None:
    """The tables, and where the report is."""
    from jobs.closing import pairs
    from pipelines.compare_result import same_moment

    console.print()
    console.print(table(result["right_after"], result, str(result["right_after_means"])))
    if not same_moment(result):
        console.print()
        final = {name: one["final"] for name, one in result["methods"].items()}
        console.print(table(final, result, "after the whole stream, over all edits"))
    rows = {f"{name}": f"{result['status'][name]}: {error}" for name, error in result["failed"].items()}
    rows |= {"time": f"{result['timing']['wall_s']:.0f} s", "report": str(out / "report.html")}
    console.print()
    pairs(console, rows)


def table(tables: Mapping[str, Mapping[str, float]], result: Mapping[str, Any], title: str) -> Any:
    """One row a method."""
    from rich.table import Table

    from pipelines.compare_result import costs, shown_metrics

    # The report has the rest: a terminal is narrow.
    names = [name for name in shown_metrics(list(tables.values())) if not name.startswith("locality_answer")]
    shown = Table(title=title, title_justify="left", box=None, header_style="bold", pad_edge=False)
    shown.add_column("method", no_wrap=True)
    for name in names:
        shown.add_column(name.replace(".", "\n").removeprefix("counterfact\n"), justify="right")
    for name in ("s an\nedit", "adapter\nMiB"):
        shown.add_column(name, justify="right")
    for method, metrics in tables.items():
        seconds, size = costs(result["methods"][method])
        cells = [_figure(metrics.get(name)) for name in names]
        cells += [_figure(seconds), _figure(None if size is None else size / 2**20)]
        mark = "" if result["status"][method] == "finished" else f" ({result['status'][method]})"
        shown.add_row(f"{method}{mark}", *cells)
    return shown


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
