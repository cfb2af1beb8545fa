"""`elder compare`: the same stream under several methods, and one table."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.jobs.shared.extras import require_for_run
from elder.jobs.shared.options import all_overrides, config_arguments, json_option
from elder.jobs.shared.running import resume_command
from elder.jobs.shared.suite_commands import (
    SuitePages,
    carry_out,
    method_options,
    names_of,
    place_options,
    with_strategy,
)

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.comparison import CompareConfig
    from elder.pipelines.suite.driver import SuiteOutcome


@click.command("compare")
@config_arguments
@method_options
@place_options
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
    from elder.pipelines.config.comparison import load_compare_config

    given = with_strategy(all_overrides(overrides, run_id, address), strategy)
    compare = load_compare_config(config, given, names_of(methods))
    require_for_run(compare.run)
    from elder.pipelines.suite.comparison_driver import run_compare

    resume = resume_command("compare", config, given, compare.compare_id, methods=methods, parallel=parallel, out=out)
    drive = partial(run_compare, compare)
    carry_out(compare, SuitePages(partial(opening, compare), closing_page, drive), resume, parallel, out, json_file)


def opening(compare: CompareConfig, edits: int) -> dict[str, str]:
    """Names and values of the first page."""
    from elder.pipelines.config.strategies import MEANINGS

    run, stream = compare.run, compare.members[0].config.stream
    strategy = compare.compare.strategy
    return {
        "comparison": compare.compare_id,
        "base model": f"{run.model.source}, {run.model.dtype}",
        "methods": ", ".join(member.name for member in compare.members),
        "edits": f"{edits} of {run.data.source}, stages of {stream.stage_size}, {stream.batch_size} a batch",
        "strategy": f"{strategy}: {MEANINGS[strategy]}",
    }


def closing_page(console: Console, came: SuiteOutcome, out: Path) -> None:
    """Print the tables, and where the report is."""
    from elder.jobs.terminal.summary import pairs
    from elder.pipelines.suite.comparison_result import same_moment

    result = came.result
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

    from elder.jobs.terminal.display import figure
    from elder.pipelines.suite.comparison_result import costs, shown_metrics

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
        cells = [figure(metrics.get(name)) for name in names]
        cells += [figure(seconds), figure(None if size is None else size / 2**20)]
        mark = "" if result["status"][method] == "finished" else f" ({result['status'][method]})"
        shown.add_row(f"{method}{mark}", *cells)
    return shown
