"""`elder rollback`: point an alias back at an earlier version; who, when and why are kept."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from elder.errors import ConfigError
from elder.jobs.shared.options import alias_option, json_option, mlflow_option, reason_options, write_json

if TYPE_CHECKING:
    from elder.infra.tracking.connection import Connection


@click.command("rollback")
@click.argument("name", metavar="NAME")
@click.option("--to", "ref", metavar="REF", required=True, help="A version (2, models:/NAME/2), or: previous.")
@alias_option
@reason_options
@click.option("--force", is_flag=True, help="Also to a version that never held the alias and whose gates do not hold.")
@mlflow_option
@json_option
def command(
    name: str,
    ref: str,
    alias: str,
    why: str,
    who: str | None,
    force: bool,
    mlflow: str | None,
    json_file: Path | None,
) -> None:
    """Point an alias of the registered model NAME back at a version.

    A version that has held the alias before is taken at once; another one must pass the gates of its run, as in
    `elder promote`.
    """
    from elder.infra.tracking.connection import Connection
    from elder.infra.tracking.promote import find_candidate, has_held, move_alias
    from elder.jobs.commands.promote import say, verdict
    from elder.jobs.shared.wiring import tracking_address

    connection = Connection(tracking_address(mlflow))
    name = name.removeprefix("models:/")
    version = wanted_version(connection, name, ref, alias)
    failures = []
    if not has_held(connection, name, alias, version):
        failures = verdict(find_candidate(connection, f"models:/{name}/{version}"), force)
    record = move_alias(connection, name, alias, version, "rollback", who, why, failures)
    say(name, alias, version, record)
    write_json(json_file, {"name": name, "alias": alias, "version": version, "record": record})


def wanted_version(connection: Connection, name: str, ref: str, alias: str) -> int:
    """The version that `--to` means.

    Raises:
        InputError: There is no such version, or it belongs to another name.
    """
    from elder.infra.tracking.promote import previous_version
    from elder.infra.tracking.read import registered_version

    if ref == "previous":
        return previous_version(connection, name, alias)
    found = registered_version(connection, f"models:/{name}/{ref}" if ref.isdecimal() else ref)
    if found is None or found.name != name:
        raise ConfigError(f"--to {ref}: expected a version of '{name}': 2, models:/{name}/2, or previous")
    return int(found.version)
