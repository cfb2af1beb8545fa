"""`elder plan`: a dry run on paper."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.jobs.shared.extras import MODEL_LIBRARIES, require
from elder.jobs.shared.options import all_overrides, config_arguments, json_option, write_json
from elder.jobs.shared.running import show_config
from elder.jobs.shared.suite_commands import load_several, method_options

if TYPE_CHECKING:
    from elder.pipelines.planning.plan import Outline, Plan
    from elder.pipelines.planning.suite_plan import SuitePlan


@click.command("plan")
@config_arguments
@method_options
@click.option(
    "--memory-gib",
    type=click.FloatRange(min=0, min_open=True),
    metavar="GIB",
    help="Memory of each worker's device; default: that of a GPU found here.",
)
@json_option
def command(
    config: str,
    overrides: tuple[str, ...],
    run_id: str | None,
    methods: str | None,
    strategy: str | None,
    memory_gib: float | None,
    json_file: Path | None,
) -> None:
    """Show what CONFIG would do: resolved config, stages, keys to be written, memory per worker. Touches nothing.

    Without torch, which gives the shape of the base model, the memory is left out.
    Of a comparison or a study: a line a run, and what they come to.
    """
    from elder.jobs.shared.preflight import models_here
    from elder.pipelines.config.run import kind_of, load_config
    from elder.pipelines.planning.plan import outline, plan
    from elder.pipelines.planning.sharding import worker_memory
    from elder.pipelines.planning.suite_plan import suite_plan

    given = all_overrides(overrides, run_id)
    if kind_of(config, given) == "training":
        from elder.jobs.commands.train_editor import plan as plan_training
        from elder.pipelines.config.training import load_train_config

        write_json(json_file, plan_training(load_train_config(config, given)))
        return
    several = load_several(config, given, methods, strategy)
    resolved = several.run if several else load_config(config, given)
    if not several and not models_here():
        known = outline(resolved)
        show_outline(known)
        write_json(json_file, known.to_dict())
        return
    require(*MODEL_LIBRARIES)
    available = worker_memory(resolved) if memory_gib is None else int(memory_gib * 2**30)
    if several:
        suite = suite_plan(several, available)
        show_suite(suite)
        write_json(json_file, suite.to_dict())
        return
    found = plan(resolved, memory_per_worker=available)
    show(found)
    write_json(json_file, found.to_dict())


def show_suite(suite: SuitePlan) -> None:
    """Print the plan of several runs for people."""
    from elder.jobs.terminal.columns import aligned
    from elder.pipelines.planning.memory import gib

    run, totals = suite.whole.run, suite.totals
    show_config(suite.whole)
    click.echo(
        f"base model       {run.model.source}: {suite.shape.parameters:,} parameters, {suite.shape.blocks} blocks"
    )
    columns = ("run", "method", "blocks", "a batch", "edits", "stages", "batches", "statistics", "GiB a worker")
    rows: list[tuple[Any, ...]] = []
    for name, one in suite.plans.items():
        memory = next(item for item in one.memory if item.sharding == one.sharding)
        blocks = _ranges(one.edited)
        size = f"{one.config.stream.batch_size}{', isolated' if one.config.stream.strategy == 'isolated' else ''}"
        batches = sum(stage.batches for stage in one.stages)
        rows.append((name, one.config.editor.method, blocks, size, _count(one.edits),
                     len(one.stages), batches, len(suite.statistics[name]), gib(memory.total)))  # fmt: skip
    rows.append(
        ("total", "", "", "", *(_count(totals[key]) for key in ("edits", "stages", "batches", "statistics")), "")
    )
    click.echo()
    for line in aligned([columns, *rows], left=4):
        click.echo(line)
    click.echo("statistics: second moments of a block over a text; runs with the same text and block share them")
    click.echo(f"\nkeys below       {run.tracking.store}")
    for key in suite.to_dict()["keys"]:
        click.echo(f"  {key}")
    click.echo(f"  runs/{run.run_id}-RUN/... for each run, as elder plan shows of one (all of them with --json)")
    tracking = run.tracking
    click.echo(f"mlflow           {tracking.mlflow}: experiment {tracking.experiment}, a run with a child each"
               if tracking.mlflow else "mlflow           none")  # fmt: skip
    for note in dict.fromkeys(note for one in suite.plans.values() for note in one.notes):
        click.echo(f"note: {note}")


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}"


def _ranges(blocks: Sequence[int]) -> str:
    """`4-8` for neighbours, else each block."""
    if len(blocks) > 2 and list(blocks) == list(range(blocks[0], blocks[-1] + 1)):
        return f"{blocks[0]}-{blocks[-1]}"
    return ",".join(map(str, blocks))


def show_outline(known: Outline) -> None:
    """Print what can be planned without the shape of the base model."""
    show_config(known.config)
    click.echo(f"base model       {known.config.model.source}: its shape and the memory of workers need torch here")
    _show_stages(known)
    _show_places(known)
    for note in (*known.notes, "pip install 'elder[edit]' for blocks, parameters and memory per worker"):
        click.echo(f"note: {note}")


def show(plan: Plan) -> None:
    """Print a plan for people."""
    show_config(plan.config)
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


def _show_stages(plan: Outline) -> None:
    count = "an unknown number of" if plan.edits is None else f"{plan.edits:,}"
    click.echo(f"\nstages           {len(plan.stages)} for {count} edits, {plan.config.stream.batch_size} a batch")
    for stage in plan.stages:
        click.echo(f"  {stage.stage:>4}  edits {stage.first:>6} to {stage.end - 1:<6} {stage.batches:>4} batches")


def _show_places(plan: Outline) -> None:
    tracking = plan.config.tracking
    click.echo(f"\nkeys below       {tracking.store}")
    for key in plan.keys:
        if "/stages/" not in key or "/stages/000000/" in key:
            click.echo(f"  {key}")
        elif key.endswith("/000001/COMMIT.json"):
            click.echo(f"  ... the same for each of {len(plan.stages)} stages (all of them with --json)")
    if tracking.mlflow:
        run = f"experiment {tracking.experiment}, run {plan.config.name}"
        registered = f", registered as {tracking.register_as}@{tracking.alias}" if tracking.register_as else ""
        click.echo(f"mlflow           {tracking.mlflow}: {run}{registered}")
    else:
        click.echo("mlflow           none")


def _show_memory(plan: Plan) -> None:
    from elder.pipelines.planning.memory import formulas, gib

    click.echo(f"\nmemory per worker, GiB ({max(plan.config.cluster.workers, 1)} workers, {plan.config.model.dtype})")
    columns: tuple[str, ...] = ("base", "gathered", "adapters", "statistics", "training", "evaluation", "total")
    if not any(item.statistics for item in plan.memory):
        columns = tuple(name for name in columns if name != "statistics")
    click.echo("  sharding" + "".join(f"{name:>12}" for name in columns))
    for item in plan.memory:
        mark = "*" if item.sharding == plan.sharding else " "
        click.echo(f"{mark} {item.sharding:<8}" + "".join(f"{gib(getattr(item, name)):>12}" for name in columns))
    click.echo(f"* {plan.sharding}: {plan.reason}")
    for line in formulas(plan.config):
        click.echo(f"  {line}")
