"""`elder cp`: a packaged config becomes a file of the user's own."""

from __future__ import annotations

import re
from pathlib import Path

import click

from elder.errors import ConfigError
from elder.paths import check_plain, not_plain, user_path


@click.command("cp")
@click.argument("config", metavar="CONFIG")
@click.argument("file", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def command(config: str, file: Path, force: bool) -> None:
    """Copy the packaged CONFIG, comments included, to FILE (or into the folder FILE)."""
    from elder.pipelines.config.files import find_config

    source = find_config(config)
    file = user_path(file, ConfigError)
    target = file / source.name if file.is_dir() else file
    if found := not_plain(target):
        raise ConfigError(f"{target}: cannot be written: it is {found}")
    text = _with_schema_from(source)
    if target.exists() and not force:
        raise ConfigError(f"{target}: exists already; choose another name, or --force to replace it")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{target}: cannot be written: {error.strerror}") from error
    folder = config.removeprefix("configs/").partition("/")[0]
    verb = {"tune": "tune", "train": "train-editor", "studies": "study"}.get(folder, "edit")
    click.echo(f"{target}: run it with `elder {verb} {target}`")


def _with_schema_from(source: Path) -> str:
    """The text of a config; the schema that it names is found from wherever it is put."""
    check_plain(source, ConfigError)
    try:
        text = source.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{source}: cannot be read: {error}") from error
    return re.sub(r"(?<=\$schema=)\S+", lambda found: (source.parent / found[0]).resolve().as_uri(), text, count=1)
