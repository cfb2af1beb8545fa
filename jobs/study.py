"""`elder study`: many edit runs over batch sizes, blocks, methods and strategies, and a report of them."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from elder.errors import InputError
from jobs.options import all_overrides, check_json_target, config_arguments, json_option, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from pipelines.fleet_driver import Came
    from pipelines.study_config import StudyConfig


@click.command("study")
@config_arguments
@click.option("--parallel", type=click.IntRange(min=1), metavar="N", help="Runs at the same time on a cluster.")
@click.option("--address", metavar="URL", help="Short for cluster.address=URL: auto, local or a Ray address.")
@click.option(
    "--out",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the report goes; default: elder-runs/study/ID.",
)
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
    from jobs.display import make_console
    from pipelines.fleet import outcome_error
    from pipelines.study_config import load_study_config

    check_json_target(json_file)
    given = all_overrides(overrides, run_id, address)
    study = load_study_config(config, given)
    place = out or Path("elder-runs") / "study" / study.study_id
    console = make_console()
    kept = [text for text in given if not text.startswith("run_id=")]
    where = [] if out is None else ["--out", str(out)]
    resume = shlex.join(["elder", "study", config, *kept, f"run_id={study.study_id}", *where])
    came = perform(study, console, place, parallel, os.environ.get("ELDER_RESUME") or resume)
    write_json(json_file, came.result)
    closing_page(console, came, place)
    error = outcome_error(came.ended)
    if error is not None:
        raise error


def perform(study: StudyConfig, console: Console, out: Path, parallel: int | None, resume: str) -> Came:
    """Check, run, show.

    Raises:
        InputError: Something given is wrong; nothing was started.
        UnreachableError: Store, tracker or cluster does not answer.
    """
    from jobs.closing import pairs
    from jobs.compare import FleetLines
    from jobs.edit import job_tags, show_world
    from jobs.preflight import check_inputs, check_places
    from jobs.wiring import home, make_store_factory, open_tracker, quiet_libraries
    from pipelines.fleet_driver import Outside
    from pipelines.study_driver import run_study

    run = study.run
    quiet_libraries(run)
    show_world(run, console)
    check_inputs(run)
    factory = make_store_factory(run)
    check_places(factory())
    edits = sum(member.config.data.edits or 0 for member in study.members)
    pairs(
        console,
        {
            "study": study.study_id,
            "base model": f"{run.model.source}, {run.model.dtype}",
            "runs": f"{len(study.members)}, {edits} edits in all; parts {', '.join(study.parts)}",
            "store": run.tracking.store,
            "if it stops": resume,
        },
    )
    try:
        outside = Outside(
            factory, lambda: open_tracker(run), FleetLines(console), parallel, home(), out, tags=job_tags()
        )
        return run_study(study, outside)
    except InputError:
        raise  # nothing was started
    except BaseException:
        click.echo(f"what is committed stands; continue with: {resume}", err=True)
        raise


def closing_page(console: Console, came: Came, out: Path) -> None:
    """A line for each run, and where the report is."""
    from rich.table import Table

    from jobs.closing import pairs
    from pipelines.compare_result import shown_metrics
    from pipelines.study_report import figures_of

    runs = came.result["runs"]
    known = shown_metrics([figures_of(run) for run in runs.values()])
    names = [n for n in known if n[-1] != "M" and not n.startswith("locality_answer")]  # the report has the rest
    table = Table(title="runs", title_justify="left", box=None, header_style="bold", pad_edge=False)
    for name in ("run", "edits", *(n.replace(".", "\n").removeprefix("counterfact\n") for n in names)):
        table.add_column(name, justify="left" if name == "run" else "right", no_wrap=name == "run")
    for name, run in runs.items():
        mark = "" if run["status"] == "finished" else f" ({run['status']})"
        cells = ["-" if figures_of(run).get(n) is None else f"{figures_of(run)[n]:.3f}" for n in names]
        table.add_row(f"{name}{mark}", str(run["edits"]), *cells)
    console.print()
    console.print(table)
    console.print()
    pairs(console, {"time": f"{came.result['timing']['wall_s']:.0f} s", "report": str(out / "report.html")})
