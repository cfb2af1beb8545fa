"""`elder demo`: the main job on embedded defaults, ending with an adapter pulled back from MLflow that answers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.jobs.commands.edit import EditCommand, finish, perform_and_write
from elder.jobs.shared.extras import require_for_run
from elder.jobs.shared.options import all_overrides, check_json_target, json_option

if TYPE_CHECKING:
    from rich.console import Console


@click.command("demo")
@click.argument("overrides", nargs=-1, metavar="[KEY.SUB=VALUE]...")
@click.option("--run-id", metavar="ID", help="Short for run_id=ID: name the run, or continue it.")
@json_option
def command(overrides: tuple[str, ...], run_id: str | None, json_file: Path | None) -> None:
    """Edit 200 facts into a small model, in stages, on two workers; then pull the adapter back and ask it."""
    from elder.jobs.terminal.display import make_console

    check_json_target(json_file)
    job = EditCommand.from_arguments("demo", all_overrides(overrides, run_id))
    require_for_run(job.config)
    console = make_console()
    result = perform_and_write(job, console, json_file)
    pulled = pull_back(job, result)
    following = ["elder ls configs", "elder cp demo my.yaml", "elder plan paper/elder_llama2_7b_zsre"]
    finish(job, console, result, following)
    if pulled is not None:
        ask(job, console, pulled)


def pull_back(job: EditCommand, result: Mapping[str, Any]) -> Path | None:
    """Fetch the registered adapter from MLflow into a folder beside the store; None when none is registered."""
    registered = result.get("registered")
    if not registered:
        return None
    from elder.infra.tracking.tracker import pull

    store = job.config.tracking.store
    parent = Path("elder-runs") if "://" in store else Path(store).parent
    directory = parent / "pulled" / job.config.run_id
    ref = f"models:/{registered['name']}/{registered['version']}"
    if not directory.exists():  # a demo that is called again with its run id has pulled it before
        pull(ref, directory, tracking_uri=str(job.config.tracking.mlflow), store=job.config.tracking.store)
    return directory


def ask(job: EditCommand, console: Console, directory: Path) -> None:
    """Load the pulled adapter onto a fresh base model and let it answer a few prompts."""
    import elder
    from elder.jobs.shared.wiring import home
    from elder.jobs.terminal.answers import before_and_after
    from elder.jobs.terminal.summary import answers
    from elder.pipelines.run.inputs import load_stream

    base = elder.load_base(job.config.model.source, dtype=job.config.model.dtype, device="cpu", cache_dir=home())
    edited = elder.load_edited(directory, base=base)
    edits = load_stream(job.config)[: max(job.config.evaluation.probes, 1)]
    said = f"\npulled back from MLflow into {directory}, loaded with elder.load_edited, and asked:"
    console.print(said, markup=False, soft_wrap=True)
    answers(console, before_and_after(edited, edits, job.config.evaluation.max_new_tokens))
