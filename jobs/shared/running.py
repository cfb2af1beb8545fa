"""Shared by the verbs that run something: checks before the run, messages and the result when it fails."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from elder.errors import InputError, RunTakenOver
from elder.jobs.shared.options import option_words, write_json

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.base import StagedConfig
    from elder.pipelines.config.suite import SuiteConfig
    from elder.pipelines.protocols import Store

C = TypeVar("C", bound="StagedConfig")
T = TypeVar("T")


def job_tags() -> dict[str, str]:
    """Tags of the tracked run that say which Ray job it was, if it is one."""
    submission = os.environ.get("ELDER_SUBMISSION_ID")
    return {"ray.submission_id": submission} if submission else {}


def resume_command(verb: str, config: str, overrides: Sequence[str], run_id: str, **options: object) -> str:
    """The command that continues a run: the same one with the run id; inside a Ray job the user submits again.

    Args:
        verb: Of the command.
        config: As the user named it.
        overrides: Those given.
        run_id: Of the run.
        **options: Further options that were given; None is left out.
    """
    kept = [text for text in overrides if not text.startswith("run_id=")]
    words = ["elder", verb, config, *kept, f"run_id={run_id}", *option_words(**options)]
    return os.environ.get("ELDER_RESUME") or shlex.join(words)


def prepare(config: C, console: Console, check: Callable[[C], T]) -> tuple[T, Callable[[], Store]]:
    """Find out what is wrong before anything starts; the base model is made where that can be watched, if it must be.

    Args:
        config: Of the run.
        console: Where to write.
        check: Reads and checks what the user gave.

    Returns:
        What `check` returns, and what opens the store, which has been tried.

    Raises:
        InputError: Something given is wrong.
        UnreachableError: The store does not answer or refuses writes.
    """
    from elder.infra.stores.open import probe_store
    from elder.jobs.shared.wiring import make_store_factory, quiet_libraries

    quiet_libraries(config)
    show_model(config, console)
    found = check(config)
    factory = make_store_factory(config)
    probe_store(factory())
    return found, factory


@contextmanager
def saying_how_to_continue(resume: str, committed: Callable[[], str]) -> Iterator[None]:
    """When the block fails, say what it has committed and which command continues it."""
    try:
        yield
    except (InputError, RunTakenOver):
        raise  # nothing was started, or another driver continues
    except BaseException:
        click.echo(committed(), err=True)
        click.echo(f"continue with: {resume}", err=True)
        raise


@contextmanager
def refusal_written(json_file: Path | None) -> Iterator[None]:
    """When a gate refuses a stage in the block, write the result so far."""
    from elder.pipelines.run.driver import StageRefused

    try:
        yield
    except StageRefused as refused:
        write_json(json_file, refused.result)
        raise


def show_model(config: StagedConfig, console: Console) -> None:
    """Make the base model where it can be watched, if it is of a kind that is made on first use and is not here yet."""
    from elder.jobs.shared.models import make_shown
    from elder.jobs.shared.wiring import home
    from elder.jobs.terminal.display import training_progress
    from elder.models.made import find_made, is_made

    source = config.model.source
    if not is_made(source) or find_made(source, home()) is not None:
        return
    if not source.startswith("world:"):
        make_shown(source, console)
        return
    from elder.world.cache import ensure_world

    console.print(f"{source}: training its model once (1 to 2 minutes); later runs find it cached", markup=False)
    with training_progress(console) as step:
        ensure_world(source, cache_dir=home(), progress=step)


def show_config(config: StagedConfig | SuiteConfig) -> None:
    """Print a resolved config and its digest."""
    click.echo("# resolved config\n" + config.dump_yaml().rstrip())
    click.echo(f"\ndigest           {config.digest()}")


def report_place(store_uri: str, run_id: str) -> str:
    """Where the report lies: a path for a directory store, an address otherwise."""
    return f"{store_uri.removeprefix('file://').rstrip('/')}/runs/{run_id}/report/"
