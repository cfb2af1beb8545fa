"""`elder plan`: a dry run on paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from jobs.options import all_overrides, check_json_target, config_arguments, json_option, write_json

if TYPE_CHECKING:
    from pipelines.plan import Plan


@click.command("plan")
@config_arguments
@click.option(
    "--memory-gib",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="Memory of each worker's device; default: that of a GPU found here.",
)
@json_option
def command(
    config: str, overrides: tuple[str, ...], run_id: str | None, memory_gib: float | None, json_file: Path | None
) -> None:
    """Show what CONFIG would do: resolved config, stages, keys to be written, memory per worker. Touches nothing."""
    from pipelines.config import load_config
    from pipelines.machine import worker_memory
    from pipelines.plan import plan
    from pipelines.train_config import describes_training, load_train_config

    check_json_target(json_file)
    if describes_training(config, overrides):
        from jobs.train_editor import plan as plan_training

        write_json(json_file, plan_training(load_train_config(config, all_overrides(overrides, run_id))))
        return
    resolved = load_config(config, all_overrides(overrides, run_id))
    available = worker_memory(resolved) if memory_gib is None else int(memory_gib * 2**30)
    found = plan(resolved, memory_per_worker=available)
    show(found)
    write_json(json_file, found.to_dict())


def show(plan: Plan) -> None:
    """Print a plan for people."""
    click.echo("# resolved config\n" + plan.config.dump_yaml().rstrip())
    click.echo(f"\ndigest           {plan.digest}")
    shape = plan.shape
    click.echo(
        f"base model       {plan.config.model.source}: {shape.parameters:,} parameters, {shape.blocks} blocks, "
        f"width {shape.width}, MLP {shape.inner} (from {shape.origin})"
    )
    click.echo(
        f"adapter          {plan.config.editor.method} on blocks {', '.join(map(str, plan.edited))}: "
        f"{plan.adapter_parameters:,} trained parameters"
    )
    _show_stages(plan)
    _show_places(plan)
    _show_memory(plan)
    for note in plan.notes:
        click.echo(f"note: {note}")


def _show_stages(plan: Plan) -> None:
    count = "an unknown number of" if plan.edits is None else f"{plan.edits:,}"
    click.echo(f"\nstages           {len(plan.stages)} for {count} edits, {plan.config.stream.batch_size} a batch")
    for stage in plan.stages:
        click.echo(f"  {stage.stage:>4}  edits {stage.first:>6} to {stage.end - 1:<6} {stage.batches:>4} batches")


def _show_places(plan: Plan) -> None:
    tracking = plan.config.tracking
    click.echo(f"\nkeys below       {tracking.store}")
    for key in plan.keys:
        if "/stages/" not in key or "/stages/000000/" in key:
            click.echo(f"  {key}")
        elif key.endswith("/000001/COMMIT.json"):
            click.echo(f"  ... the same for each of {len(plan.stages)} stages (all of them with --json)")
    if tracking.mlflow:
        run = f"experiment {tracking.experiment}, run {plan.config.name}"
        registered = f", registered as {tracking.register}@{tracking.alias}" if tracking.register else ""
        click.echo(f"mlflow           {tracking.mlflow}: {run}{registered}")
    else:
        click.echo("mlflow           none")


def _show_memory(plan: Plan) -> None:
    from pipelines.memory import formulas, gib

    click.echo(f"\nmemory per worker, GiB ({max(plan.config.cluster.workers, 1)} workers, {plan.config.model.dtype})")
    columns = ("base", "gathered", "adapters", "statistics", "training", "evaluation", "total")
    if not any(item.statistics for item in plan.memory):
        columns = tuple(name for name in columns if name != "statistics")
    click.echo("  sharding" + "".join(f"{name:>12}" for name in columns))
    for item in plan.memory:
        mark = "*" if item.sharding == plan.sharding else " "
        click.echo(f"{mark} {item.sharding:<8}" + "".join(f"{gib(getattr(item, name)):>12}" for name in columns))
    click.echo(f"* {plan.sharding}: {plan.reason}")
    for line in formulas(plan.config):
        click.echo(f"  {line}")
