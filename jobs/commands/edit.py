"""`elder edit`: the main job. Checks everything, runs the driver under a live display, prints the closing page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.errors import InputError
from elder.jobs.shared.extras import require_for_run
from elder.jobs.shared.options import all_overrides, check_json_target, config_arguments, json_option, write_json
from elder.jobs.shared.running import job_tags, report_place, show_world

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.run import RunConfig
    from elder.pipelines.protocols import Store


@click.command("edit")
@config_arguments
@click.option("--address", metavar="URL", help="Short for cluster.address=URL: auto, local or a Ray address.")
@json_option
def command(
    config: str, overrides: tuple[str, ...], run_id: str | None, address: str | None, json_file: Path | None
) -> None:
    """Apply the stream of edits of CONFIG, stage by stage; every stage is measured and committed.

    The same command with run_id=ID continues a run from its last committed stage.
    """
    from elder.jobs.terminal.display import make_console

    check_json_target(json_file)
    job = EditCommand.from_arguments(config, all_overrides(overrides, run_id, address))
    require_for_run(job.config)
    console = make_console()
    result = perform_and_write(job, console, json_file)
    finish(job, console, result, next_steps(job.config, result))


@dataclass(frozen=True)
class EditCommand:
    """A run as the user asked for it: the config's argument, all overrides, and the resolved config."""

    argument: str
    overrides: tuple[str, ...]
    config: RunConfig

    @classmethod
    def from_arguments(cls, argument: str, overrides: Sequence[str]) -> EditCommand:
        """Resolve the config.

        Raises:
            ConfigError: Everything that is wrong with it.
        """
        from elder.pipelines.config.run import load_config

        return cls(argument, tuple(overrides), load_config(argument, overrides))

    @property
    def resume(self) -> str:
        """The command that continues this run."""
        from elder.jobs.terminal.summary import resume_command

        submitted = os.environ.get("ELDER_RESUME")  # inside a Ray job the user goes on by submitting again
        return submitted or resume_command(self.argument, self.overrides, self.config.run_id)


def perform_and_write(job: EditCommand, console: Console, json_file: Path | None) -> dict[str, Any]:
    """`perform`, and write the result, that of a refused run too.

    Raises:
        GateError: A gate refused a stage; the result so far has been written.
    """
    from elder.pipelines.run.driver import StageRefused

    try:
        result = perform(job, console)
    except StageRefused as refused:
        write_json(json_file, refused.result)
        raise
    write_json(json_file, result)
    return result


def perform(job: EditCommand, console: Console) -> dict[str, Any]:
    """Check, run, show. Returns the driver's result.

    Raises:
        InputError: Something given is wrong; nothing was started.
        UnreachableError: Store, tracker or cluster does not answer.
        ElderError: The run failed; what stands committed and how to continue has been printed.
        KeyboardInterrupt: As above.
    """
    from elder.jobs.shared.preflight import check_inputs, check_places
    from elder.jobs.shared.wiring import home, make_store_factory, open_tracker, quiet_libraries
    from elder.jobs.terminal.display import Display
    from elder.jobs.terminal.summary import opening_page
    from elder.pipelines.edit.driver import run_edit

    config = job.config
    quiet_libraries(config)
    show_world(config, console)
    inputs = check_inputs(config)
    factory = make_store_factory(config)
    check_places(factory())
    tracker = open_tracker(config)
    opening_page(console, config, len(inputs.edits), job.resume, None)
    display = Display(console, config.evaluation.protocols)
    try:
        with display:
            if config.cluster.workers:
                display({"kind": "phase", "name": "start"})
            return run_edit(
                config, factory, tracker, display, cache_dir=home(), edits=inputs.checked_edits,
                windows=inputs.windows, tags=job_tags(),
            )  # fmt: skip
    except InputError:
        raise  # nothing was started
    except BaseException:
        _say_what_stands(job, display.committed)
        raise


def finish(job: EditCommand, console: Console, result: Mapping[str, Any], following: Sequence[str]) -> None:
    """Print the closing page."""
    from elder.jobs.shared.wiring import make_store_factory
    from elder.jobs.terminal.summary import closing_page

    store = make_store_factory(job.config)()
    facts = {"answers": answers_of(job.config, store), "report": report_place(store.uri, job.config.run_id)}
    closing_page(console, job.config, result, {**facts, "next": following})


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


def _say_what_stands(job: EditCommand, committed: Sequence[Mapping[str, Any]]) -> None:
    if committed:
        last = committed[-1]
        click.echo(f"stage {last['stage']} stands committed ({last['edits']} edits)", err=True)
    else:
        click.echo("no stage was committed in this session", err=True)
    click.echo(f"continue with: {job.resume}", err=True)
