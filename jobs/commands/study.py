"""`elder study`: many edit runs over batch sizes, blocks, methods and strategies, and a report of them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elder.jobs.shared.extras import require_for_run
from elder.jobs.shared.options import all_overrides, config_arguments, json_option
from elder.jobs.shared.running import resume_command
from elder.jobs.shared.suite_commands import SuitePages, carry_out, place_options

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.study import StudyConfig
    from elder.pipelines.suite.driver import SuiteOutcome


@click.command("study")
@config_arguments
@place_options
@json_option
def command(
    config: str,
    overrides: tuple[str, ...],
    run_id: str | None,
    parallel: int | None,
    address: str | None,
    out: Path | None,
    json_file: Path | None,
) -> None:
    """Do all runs of the section `study` of CONFIG and write tables, plots and quoted published figures.

    A run that fails does not stop the others. The same command with run_id=ID continues: finished runs are kept.
    """
    from elder.pipelines.config.study import load_study_config

    given = all_overrides(overrides, run_id, address)
    study = load_study_config(config, given)
    require_for_run(study.run)
    from elder.pipelines.suite.study_driver import run_study

    resume = resume_command("study", config, given, study.study_id, parallel=parallel, out=out)
    pages = SuitePages(lambda edits: opening(study), closing_page, partial(run_study, study))
    carry_out(study, pages, resume, parallel, out, json_file)


def opening(study: StudyConfig) -> dict[str, str]:
    """Names and values of the first page."""
    edits = sum(member.config.data.edits or 0 for member in study.members)
    return {
        "study": study.study_id,
        "base model": f"{study.run.model.source}, {study.run.model.dtype}",
        "runs": f"{len(study.members)}, {edits} edits in all; parts {', '.join(study.study.parts)}",
    }


def closing_page(console: Console, came: SuiteOutcome, out: Path) -> None:
    """Print a line for each run, and where the report is."""
    from rich.table import Table

    from elder.jobs.terminal.display import figure
    from elder.jobs.terminal.summary import pairs
    from elder.pipelines.suite.comparison_result import shown_metrics
    from elder.pipelines.suite.study_report import figures_of

    runs = came.result["runs"]
    known = shown_metrics([figures_of(run) for run in runs.values()])
    names = [n for n in known if n[-1] != "M" and not n.startswith("locality_answer")]  # the report has the rest
    table = Table(title="runs", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in ("run", "edits", *(n.replace(".", "\n").removeprefix("counterfact\n") for n in names)):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=name == "run")
    for name, run in runs.items():
        mark = "" if run["status"] == "finished" else f" ({run['status']})"
        cells = [figure(figures_of(run).get(n)) for n in names]
        table.add_row(f"{name}{mark}", str(run["edits"]), *cells)
    console.print()
    console.print(table)
    console.print()
    pairs(console, {"time": f"{came.result['timing']['wall_s']:.0f} s", "report": str(out / "report.html")})
