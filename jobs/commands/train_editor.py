"""`elder train-editor`: train the network of a hyper-network editor. Checks everything, trains under a live display."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.errors import ConfigError
from elder.jobs.shared.extras import require_for_run
from elder.jobs.shared.options import all_overrides, cluster_option, config_arguments, json_option, write_json
from elder.jobs.shared.running import (
    job_tags,
    prepare,
    refusal_written,
    report_place,
    resume_command,
    saying_how_to_continue,
    show_config,
)

if TYPE_CHECKING:
    from rich.console import Console

    from elder.pipelines.config.training import TrainConfig
    from elder.pipelines.training.data import TrainingData

HEADINGS = ("ES", "GS", "LS", "agreement")
KEYS = ("config.yaml", "run.json", "drivers/000001.json")
FILES = ("adapter.safetensors", "continuation.safetensors", "manifest.json", "metrics.json", "results.jsonl")


@click.command("train-editor")
@config_arguments
@cluster_option
@json_option
def command(
    config: str, overrides: tuple[str, ...], run_id: str | None, address: str | None, json_file: Path | None
) -> None:
    """Train the editor that CONFIG describes (MEND, MALMEN), checkpoint by checkpoint; each is measured and committed.

    The same command with run_id=ID continues a training from its last committed checkpoint. Then
    `elder edit ... editor.method=malmen editor.trained=ID` uses it.
    """
    from elder.jobs.terminal.display import make_console
    from elder.pipelines.config.training import load_train_config

    given = all_overrides(overrides, run_id, address)
    resolved = load_train_config(config, given)
    require_for_run(resolved)
    console = make_console()
    with refusal_written(json_file):
        result = perform(resolved, console, resume_command("train-editor", config, given, resolved.run_id))
    write_json(json_file, result)
    closing_page(console, resolved, result)


def perform(config: TrainConfig, console: Console, resume: str) -> dict[str, Any]:
    """Check, train, show. Returns the driver's result.

    Raises:
        InputError: Something given is wrong; nothing was started.
        UnreachableError: Store, tracker or cluster does not answer.
        ElderError: The training failed; what is committed and how to continue has been printed.
    """
    from elder.jobs.shared.wiring import home, open_tracker
    from elder.jobs.terminal.display import Display
    from elder.pipelines.training.driver import run_training

    (data, notes), factory = prepare(config, console, check_facts_given)
    tracker = open_tracker(config)
    opening_page(console, config, data, resume)
    columns = {name: (f"validation.{name}",) for name in HEADINGS}
    display = Display(console, ("forced",), columns, {"edit": "train"})
    with saying_how_to_continue(resume, lambda: display.last_committed("checkpoint")), display:
        if config.cluster.workers:
            display({"kind": "phase", "name": "start"})
        read = None if notes else data
        return run_training(config, factory, tracker, display, cache_dir=home(), data=read, tags=job_tags())


def check_facts_given(config: TrainConfig) -> tuple[TrainingData, list[str]]:
    """The facts of a training, and sentences on what could not be checked yet.

    Raises:
        InputError: Everything that is wrong with addresses, model and facts, at once.
    """
    from elder.jobs.shared.preflight import check_model, noting
    from elder.pipelines.training.data import read_training

    problems: list[str] = []
    notes: list[str] = []
    tokenizer, positions = check_model(config, problems, notes)
    data = None
    with noting(problems):
        data = read_training(config, tokenizer, positions)
    if problems or data is None:
        raise ConfigError(problems)
    return data, notes


def validate(config: TrainConfig) -> dict[str, Any]:
    """`elder validate` for a training.

    Raises:
        InputError: As `check_facts_given`.
    """
    from elder.jobs.shared.wiring import quiet_libraries

    quiet_libraries(config)
    data, notes = check_facts_given(config)
    click.echo(config.dump_yaml().rstrip())
    click.echo(f"# config ok, digest {config.digest()[:16]}")
    count, held_out = len(data.blocks.facts), len(data.validation)
    click.echo(f"# data ok: {count} facts to train on, {held_out} to measure, digest {data.digest[:16]}")
    for line in data.lines:
        click.echo(f"# {line}")
    for note in notes:
        click.echo(f"# note: {note}")
    found = {"ok": True, "config_digest": config.digest(), "edits": count, "validation": held_out}
    return {**found, "dataset_digest": data.digest, "notes": notes}


def plan(config: TrainConfig) -> dict[str, Any]:
    """`elder plan` for a training; touches nothing. Without torch the memory is left out.

    Raises:
        ModelError: The base model's config cannot be found.
    """
    show_config(config)
    steps, each = config.training.steps, config.training.checkpoint_every
    checkpoints = -(-steps // each)
    facts = config.block_size
    click.echo(f"training         {config.editor.method} on {config.model.source}: {steps} steps of {facts} facts")
    click.echo(
        f"checkpoints      {checkpoints}, every {each} steps; the {config.training.choose} is the trained editor"
    )
    needed = _memory(config)
    root = f"runs/{config.run_id}"
    keys = [f"{root}/{name}" for name in KEYS]
    for number in range(checkpoints):
        folder = f"{root}/stages/{number:06d}"
        keys += [f"{folder}/{{attempt}}/{name}" for name in FILES] + [f"{folder}/COMMIT.json"]
    keys += [f"{root}/result.json", f"{root}/report/"]
    click.echo(f"keys below       {config.tracking.store}")
    for key in keys:
        if "/stages/" not in key or "/stages/000000/" in key:
            click.echo(f"  {key}")
    click.echo(f"mlflow           {config.tracking.mlflow or 'none'}")
    return {
        "run_id": config.run_id, "config_digest": config.digest(), "config": config.to_dict(), "steps": steps,
        "checkpoints": checkpoints, "facts": steps * facts, "keys": keys, "store": config.tracking.store, **needed,
    }  # fmt: skip


def _memory(config: TrainConfig) -> dict[str, Any]:
    """Print sharding and memory of the workers, as far as torch is here to tell them."""
    from elder.jobs.shared.preflight import models_here

    if not models_here():
        click.echo("memory           needs torch here: pip install 'elder[edit]'")
        return {}
    from elder.pipelines.planning.memory import estimate, gib
    from elder.pipelines.planning.shapes import model_shape
    from elder.pipelines.training.driver import recommended_sharding

    sharding, reason = recommended_sharding(config)
    estimates = estimate(config, model_shape(config.model.source, config.model.revision))
    memory = next(one for one in estimates if one.sharding == sharding)
    workers = f"{config.cluster.workers} workers" if config.cluster.workers else "this process"
    click.echo(f"sharding         {sharding}: {reason}")
    click.echo(f"memory           {gib(memory.total)} GiB each, {workers}")
    return {"sharding": {"use": sharding, "reason": reason}, "memory": {**asdict(memory), "total": memory.total}}


def opening_page(console: Console, config: TrainConfig, data: TrainingData, resume: str) -> None:
    """Print what is about to happen, and how to continue it if it stops."""
    from elder.jobs.terminal.summary import pairs

    training, cluster = config.training, config.cluster
    epochs = training.steps / data.blocks.per_epoch
    workers = f"{cluster.workers} ({cluster.gpus_per_worker:g} GPUs each)" if cluster.workers else "this process"
    rows = {
        "training": config.run_id,
        "base model": f"{config.model.source}, {config.model.dtype}",
        "method": config.editor.method,
        "facts": f"{len(data.blocks.facts)} of {config.data.source}; {len(data.validation)} others are measured",
        "steps": f"{training.steps} of {config.block_size} facts ({epochs:.2g} epochs)",
        "checkpoints": f"every {training.checkpoint_every} steps",
        "workers": workers,
        "store": config.tracking.store,
        "if it stops": resume,
    }
    pairs(console, rows)
    console.print()


def closing_page(console: Console, config: TrainConfig, result: Mapping[str, Any]) -> None:
    """Print the results, and what to do with them."""
    from elder.jobs.shared.wiring import make_store_factory
    from elder.jobs.terminal.summary import pairs

    final, adapter, timing = result["final"], result["adapter"], result["timing"]
    shown = ", ".join(f"{name} {final.get(f'validation.{name}', float('nan')):.3f}" for name in HEADINGS)
    rows = {
        "validation": shown,
        "checkpoint": f"{result['chosen']} of {len(result['stages'])} ({config.training.choose})",
        "trained editor": f"{adapter['uri']} ({adapter['bytes'] / 2**20:.2f} MiB)",
    }
    if result.get("registered"):
        rows["registered"] = f"models:/{result['registered']['name']}/{result['registered']['version']}"
    rows["time"] = f"train {timing['edit_s']:.1f} s, measure {timing['evaluate_s']:.1f} s"
    rows["report"] = report_place(make_store_factory(config)().uri, config.run_id)
    method = config.editor.method
    rows["what next"] = f"elder edit CONFIG editor.method={method} editor.trained={config.run_id}"
    console.print()
    pairs(console, rows)
