"""`elder promote`: point an alias at a stage that keeps what its gates asked for; who, when and why are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from elder.errors import GateError
from elder.jobs.shared.options import alias_option, json_option, mlflow_option, reason_options, write_json

if TYPE_CHECKING:
    from elder.infra.tracking.promote import Candidate


@click.command("promote")
@click.argument("ref", metavar="REF")
@alias_option
@click.option("--name", metavar="NAME", help="Registered name; default: that of REF, else the run's tracking.register.")
@reason_options
@click.option("--force", is_flag=True, help="Promote although the gates do not hold; that is kept too.")
@mlflow_option
@json_option
def command(
    ref: str,
    alias: str,
    name: str | None,
    why: str,
    who: str | None,
    force: bool,
    mlflow: str | None,
    json_file: Path | None,
) -> None:
    """Point an alias at REF, if the gates of its run hold for it.

    REF is a run id, runs:/ID/stage-0007, models:/NAME/3 or models:/NAME@candidate. A stage that is not registered yet
    becomes a new version first. Exit code 4: the gates do not hold, nothing was changed.
    """
    from elder.infra.tracking.connection import Connection
    from elder.infra.tracking.promote import find_candidate, move_alias
    from elder.infra.tracking.tracker import add_version
    from elder.jobs.shared.wiring import tracking_address

    connection = Connection(tracking_address(mlflow))
    candidate = find_candidate(connection, ref, name)
    failures = verdict(candidate, force)
    adapter, tags = candidate.adapter, {"elder.run_id": candidate.adapter.run_id}
    version = candidate.version or add_version(connection, adapter.model_id, candidate.name, tags)
    record = move_alias(connection, candidate.name, alias, version, "promote", who, why, failures)
    say(candidate.name, alias, version, record)
    click.echo(f"it is stage {adapter.stage} of run {adapter.run_id}")
    if candidate.gates == {}:
        click.echo("note: the run has no gates, so nothing was guarded")
    write_json(json_file, {"name": candidate.name, "alias": alias, "version": version, "record": record})


def verdict(candidate: Candidate, force: bool) -> list[str]:
    """The objections to a candidate; with `force` they are printed and passed on.

    Raises:
        GateError: Something does, and nobody forces it.
    """
    from elder.pipelines.run.promotion import objections

    adapter = candidate.adapter
    found = objections(candidate.gates, candidate.protocols, adapter.metrics, candidate.run_status)
    if found and not force:
        lines = "\n".join(f"  {text}" for text in found)
        raise GateError(
            f"stage {adapter.stage} of run {adapter.run_id} is not promoted:\n{lines}\n"
            "Promote another stage (elder show RUN lists them), or repeat with --force --why TEXT"
        )
    for text in found:
        click.echo(f"forced: {text}", err=True)
    return found


def say(name: str, alias: str, version: int, record: dict[str, Any] | None) -> None:
    """One line for a move of an alias, one for who and why."""
    if record is None:
        click.echo(f"models:/{name}@{alias}: is at version {version} already; nothing was changed")
        return
    before = "no version" if record["from"] is None else f"version {record['from']}"
    click.echo(f"models:/{name}@{alias}: {before} -> version {version}{' (forced)' if record['forced'] else ''}")
    click.echo(f"by {record['who']} at {record['when']}{': ' + record['why'] if record['why'] else ''}")
