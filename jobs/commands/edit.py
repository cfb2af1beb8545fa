"""`elder edit`: the main job. Checks everything, runs the driver under a live display, prints the closing page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.jobs.shared.extras import require_for_run
from elder.jobs.shared.options import all_overrides, cluster_option, config_arguments, json_option, write_json
from elder.jobs.shared.running import (
    job_tags,
    prepare,
    refusal_written,
    report_place,
    resume_command,
    saying_how_to_continue,
)

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.run import RunConfig
    from elder.pipelines.protocols import Store


@click.command("edit")
@config_arguments
@cluster_option
@json_option
def command(
    config: str, overrides: tuple[str, ...], run_id: str | None, address: str | None, json_file: Path | None
) -> None:
    """Apply the stream of edits of CONFIG, stage by stage; every stage is measured and committed.

    The same command with run_id=ID continues a run from its last committed stage.
    """
    run, console, result = edit(config, all_overrides(overrides, run_id, address), json_file)
    finish(run, console, result, next_steps(run, result))


def edit(config: str, overrides: Sequence[str], json_file: Path | None) -> tuple[RunConfig, Console, dict[str, Any]]:
    """Check, run, show, write; the result of a refused run is written, too.

    Returns:
        The resolved config, the console and the driver's result.

    Raises:
        InputError: Something given is wrong; nothing was started.
        UnreachableError: Store, tracker or cluster does not answer.
        ElderError: The run failed; what is committed and how to continue has been printed.
        KeyboardInterrupt: As above.
    """
    from elder.jobs.terminal.display import make_console
    from elder.pipelines.config.run import load_config

    run = load_config(config, overrides)
    require_for_run(run)
    console = make_console()
    with refusal_written(json_file):
        result = perform(run, console, resume_command("edit", config, overrides, run.run_id))
    write_json(json_file, result)
    return run, console, result


def perform(config: RunConfig, console: Console, resume: str) -> dict[str, Any]:
    """Check, run, show. Returns the driver's result; see `edit`."""
    from elder.jobs.shared.preflight import check_inputs
    from elder.jobs.shared.wiring import home, open_tracker
    from elder.jobs.terminal.display import Display
    from elder.jobs.terminal.summary import opening_page
    from elder.pipelines.edit.driver import run_edit

    inputs, factory = prepare(config, console, check_inputs)
    tracker = open_tracker(config)
    opening_page(console, config, len(inputs.edits), resume)
    display = Display(console, config.evaluation.protocols)
    with saying_how_to_continue(resume, display.last_committed), display:
        if config.cluster.workers:
            display({"kind": "phase", "name": "start"})
        return run_edit(
            config, factory, tracker, display, cache_dir=home(), edits=inputs.checked_edits, windows=inputs.windows,
            tags=job_tags(),
        )  # fmt: skip


def finish(config: RunConfig, console: Console, result: Mapping[str, Any], following: Sequence[str]) -> None:
    """Print the closing page."""
    from elder.jobs.shared.wiring import make_store_factory
    from elder.jobs.terminal.summary import closing_page

    store = make_store_factory(config)()
    facts = {"answers": answers_of(config, store), "report": report_place(store.uri, config.run_id)}
    closing_page(console, config, result, {**facts, "next": following})


def answers_of(config: RunConfig, store: Store) -> list[dict[str, Any]]:
    """Prompts of the first edits with the answers before and after, as the last stage's rows have them."""
    from elder.pipelines.run.commits import RunState

    state = RunState(store, config.run_id)
    commits = state.commits()
    rows = state.read_rows(commits[-1]) if commits else []
    return [
        {
            "prompt": row["prompt"],
            "target": row["target"],
            "before": row.get("before"),
            "after": row["reliability.generate.text"],
        }
        for row in rows[: config.evaluation.probes]
        if row.get("reliability.generate.text") is not None
    ]


def next_steps(config: RunConfig, result: Mapping[str, Any]) -> list[str]:
    """Commands that make sense after this run."""
    steps = []
    registered = result.get("registered")
    if registered:
        name, alias = registered["name"], config.tracking.alias
        ref = f"models:/{name}@{alias}" if alias else f"models:/{name}/{registered['version']}"
        steps.append(f"elder pull {ref} adapter/ --mlflow {config.tracking.mlflow}{_store_options(config)}")
        steps.append(f"python -c \"import elder; e = elder.load_edited('adapter/', base='{config.model.source}')\"")
    if config.tracking.mlflow:
        steps.append(f"elder show {config.run_id} --mlflow {config.tracking.mlflow}")
    return steps


def _store_options(config: RunConfig) -> str:
    """What `elder pull` has to be told where a large adapter lies in the store."""
    tracking = config.tracking
    if not tracking.store.startswith("s3://"):
        return ""
    endpoint = f" --s3-endpoint {tracking.s3.endpoint_url}" if tracking.s3.endpoint_url else ""
    return f" --store {tracking.store}{endpoint}"
