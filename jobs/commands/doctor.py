"""`elder doctor`: is everything here that a run needs? One line for each part: ok, or a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from elder.errors import ConfigError, UnreachableError
from elder.jobs.shared.options import json_option, write_json


@click.command("doctor")
@click.argument("arguments", nargs=-1, metavar="[CONFIG] [KEY.SUB=VALUE]...")
@click.option("--config", "named", metavar="CONFIG", help="The same as CONFIG.")
@click.option("--address", metavar="URL", help="Ray cluster to look at, http://HOST:8265 too; else cluster.address.")
@json_option
def command(arguments: tuple[str, ...], named: str | None, address: str | None, json_file: Path | None) -> None:
    """Check this machine, and the places that CONFIG names (default: demo): each line ok, warn or FAIL with a remedy.

    Store: round trip, conditional create, several writers at once. MLflow: round trip of 1 MB. Ray: address, token,
    and on every node versions, GPUs, disk, clock, and whether it reaches store and MLflow. A minute at most.
    """
    from dataclasses import asdict

    from elder.infra.doctor.checks import check
    from elder.jobs.shared.wiring import home, s3_settings
    from elder.pipelines.config.run import load_config

    config, overrides = split_arguments(arguments, named)
    resolved = load_config(config, overrides)
    checks = check(
        store=resolved.tracking.store,
        s3=s3_settings(resolved),
        mlflow=resolved.tracking.mlflow,
        address=address or resolved.cluster.address,
        cache=home(),
    )
    for item in checks:
        first, *more = item.detail.splitlines() or [""]
        click.echo(f"{item.word:<4} {item.name:<18} {first}")
        for line in more:
            click.echo(f"     {'':<18} {line}")
        if item.word != "ok" and item.remedy:
            click.echo(f"     {'':<18} -> {item.remedy}")
    write_json(json_file, {"checks": [{**asdict(item), "status": item.word} for item in checks]})
    failed = [item.name for item in checks if not item.ok]
    if failed:
        raise UnreachableError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")


def split_arguments(arguments: Sequence[str], named: str | None) -> tuple[str, list[str]]:
    """CONFIG and overrides; the first argument is an override if it has the form of one.

    Raises:
        ConfigError: Two configs are named.
    """
    rest = list(arguments)
    first = rest.pop(0) if rest and "=" not in rest[0] else None
    if first and named and first != named:
        raise ConfigError(f"two configs are named: {first} and --config {named}; give one")
    return named or first or "demo", rest
