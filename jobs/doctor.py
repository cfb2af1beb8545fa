"""`elder doctor`: is everything here that a run needs? One line for each part: ok, or a remedy."""

from __future__ import annotations

from pathlib import Path

import click

from elder.errors import UnreachableError
from jobs.options import json_option, write_json


@click.command("doctor")
@click.argument("config", metavar="[CONFIG]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY.SUB=VALUE]...")
@json_option
def command(config: str | None, overrides: tuple[str, ...], json_file: Path | None) -> None:
    """Check versions, compiler, devices, Ray, store and MLflow; with CONFIG, the places that it names."""
    from dataclasses import asdict

    from infra.doctor import check
    from jobs.wiring import home, s3_settings
    from pipelines.config import load_config

    resolved = load_config(config or "demo", overrides)
    checks = check(
        store=resolved.tracking.store,
        s3=s3_settings(resolved),
        mlflow=resolved.tracking.mlflow,
        address=resolved.cluster.address,
        cache=home(),
    )
    for item in checks:
        click.echo(f"{'ok  ' if item.ok else 'FAIL'} {item.name:<22} {item.detail}")
        if not item.ok and item.remedy:
            click.echo(f"     {'':<22} -> {item.remedy}")
    write_json(json_file, {"checks": [asdict(item) for item in checks]})
    failed = [item.name for item in checks if not item.ok]
    if failed:
        raise UnreachableError(f"{len(failed)} of {len(checks)} checks failed: {', '.join(failed)}")
