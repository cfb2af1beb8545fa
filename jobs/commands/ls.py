"""`elder ls`: the names that configs and commands understand."""

from __future__ import annotations

from pathlib import Path

import click

from elder.jobs.shared.options import json_option, write_json

KINDS = ("methods", "datasets", "configs", "config-reference")


@click.command("ls")
@click.argument("kind", type=click.Choice(KINDS))
@json_option
def command(kind: str, json_file: Path | None) -> None:
    """List methods, datasets or packaged configs, or print the reference of every config key as Markdown."""
    if kind == "config-reference":
        from elder.pipelines.config.reference import config_reference

        text = config_reference()
        click.echo(text, nl=False)
        write_json(json_file, {"markdown": text})
        return
    entries = {"methods": _methods, "datasets": _datasets, "configs": _configs}[kind]()
    width = max(len(name) for name in entries)
    for name, summary in entries.items():
        click.echo(f"{name:<{width}}  {summary}")
    write_json(json_file, {kind: entries})


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
        words.append(line.lstrip("# ").rstrip())
    text = " ".join(words)
    return text.split(". ")[0].split(": `")[0].rstrip(".")
