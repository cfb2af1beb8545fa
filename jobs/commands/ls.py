"""`elder ls`: the names that configs and commands understand."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from textwrap import fill

import click

from elder.errors import InputError
from elder.jobs.shared.options import json_option, write_json

KINDS = ("methods", "datasets", "configs", "config-reference", "config-schema")
SCHEMA_LINE = "yaml-language-server:"  # the line of a config that names its schema


@click.command("ls")
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.option("--of", "config_kind", default="edit", show_default=True, metavar="KIND",
              help="Whose config-schema: edit, tune, compare, study or training.")  # fmt: skip
@json_option
def command(kind: str | None, config_kind: str, json_file: Path | None) -> None:
    """List methods, datasets or packaged configs; or print what every config key means, as Markdown
    (config-reference) or as the JSON schema by which editors check YAML (config-schema). Without KIND: all names.
    """
    if kind is None:
        _overview(json_file)
        return
    if kind == "config-schema":
        text = _schema(config_kind)
        click.echo(text, nl=False)
        write_json(json_file, {"schema": json.loads(text)})
        return
    if kind == "config-reference":
        from elder.pipelines.config.reference import config_reference

        text = config_reference()
        click.echo(text, nl=False)
        write_json(json_file, {"markdown": text})
        return
    entries = _entries(kind)
    width = max(len(name) for name in entries)
    for name, summary in entries.items():
        click.echo(f"{name:<{width}}  {summary}")
    write_json(json_file, {kind: entries})


def _entries(kind: str) -> dict[str, str]:
    return {"methods": _methods, "datasets": _datasets, "configs": _configs}[kind]()


def _overview(json_file: Path | None) -> None:
    """Print the names of every kind, each with the command that says more."""
    listed = {kind: _entries(kind) for kind in ("methods", "datasets", "configs")}
    for kind, entries in listed.items():
        click.echo(f"{kind} (more: elder ls {kind})")
        click.echo(_lines(entries))
    click.echo("every key of a config: elder ls config-reference")
    write_json(json_file, listed)


def _lines(names: Iterable[str]) -> str:
    return fill(
        ", ".join(names), 100, initial_indent="  ", subsequent_indent="  ",
        break_on_hyphens=False, break_long_words=False,
    )  # fmt: skip


def _schema(kind: str) -> str:
    from elder.pipelines.config.json_schema import KINDS, config_schema

    if kind not in KINDS:
        raise InputError(f"--of: there are no configs of kind '{kind}' (known: {', '.join(KINDS)})")
    return config_schema(kind)


def _methods() -> dict[str, str]:
    from elder.registry import METHODS

    return {name: entry.summary for name, entry in METHODS.items()}


def _datasets() -> dict[str, str]:
    from elder.datasets import DATASETS

    return dict(DATASETS)


def _configs() -> dict[str, str]:
    from elder.pipelines.config.files import packaged_configs

    return {name: first_comment(path) for name, path in packaged_configs().items()}


def first_comment(path: Path) -> str:
    """The first sentence of the comment that a config begins with."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("#"):
            break
        if SCHEMA_LINE not in line:
            words.append(line.lstrip("# ").rstrip())
    text = " ".join(words)
    return text.split(". ")[0].split(": `")[0].rstrip(".")
