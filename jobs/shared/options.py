"""Options and arguments that verbs share, each declared once, and the file that `--json` names."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from elder.errors import ConfigError
from elder.paths import user_path

F = TypeVar("F", bound=Callable[..., Any])
Option = Callable[[Callable[..., Any]], Callable[..., Any]]


def several(*options: Option) -> Callable[[F], F]:
    """Options that go together as one decorator, listed in the order given."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            option(function)
        return function

    return decorate


def directory_option(*names: str, **settings: Any) -> Option:
    """An option that names a directory, as a Path."""
    return click.option(*names, metavar="DIR", type=click.Path(file_okay=False, path_type=Path), **settings)


def _writable(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Find out before the work, not after it, that the result cannot be written.

    Raises:
        ConfigError: It is no path of a file, or the folder does not exist or refuses us.
    """
    try:
        if path is not None:
            if user_path(path, ConfigError).is_dir():  # an empty text is the folder where we are
                raise ConfigError(f"--json '{path}': cannot be written: it is a directory; name a file")
            tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        reason = f"--json {path}: cannot be written: {error.strerror}; name a file in a writable folder"
        raise ConfigError(reason) from error
    return path


json_option = click.option(
    "--json", "json_file", metavar="FILE", type=click.Path(dir_okay=False, path_type=Path), callback=_writable,
    help="Write the result.",
)  # fmt: skip
overrides_argument = click.argument("overrides", nargs=-1, metavar="[KEY.SUB=VALUE]...")
run_id_option = click.option("--run-id", metavar="ID", help="Short for run_id=ID: name the run, or continue it.")
config_arguments = several(click.argument("config", metavar="CONFIG"), overrides_argument, run_id_option)
directory_argument = click.argument("directory", metavar="DIR", type=click.Path(file_okay=False, path_type=Path))
cluster_option = click.option(
    "--address", metavar="URL", help="Short for cluster.address=URL: auto, local or a Ray address."
)
dashboard_option = click.option(
    "--address", metavar="URL",
    help="The cluster's dashboard, http://HOST:8265; default: RAY_API_SERVER_ADDRESS or RAY_ADDRESS, else this "
    "machine.",
)  # fmt: skip
mlflow_option = click.option(
    "--mlflow", metavar="URL",
    help="Tracking server or sqlite file; default: MLFLOW_TRACKING_URI, else elder-runs/mlflow.db.",
)  # fmt: skip
limit_option = click.option(
    "--limit", type=click.IntRange(min=1), default=20, show_default=True, help="How many of the newest to list."
)
alias_option = click.option("--alias", metavar="NAME", default="champion", show_default=True, help="The alias to move.")
reason_options = several(
    click.option("--why", metavar="TEXT", default="", help="Kept in the history."),
    click.option("--who", metavar="NAME", help="Kept in the history; default: USER@HOST."),
)


def all_overrides(overrides: tuple[str, ...], run_id: str | None, address: str | None = None) -> list[str]:
    """The overrides, followed by the short options as overrides."""
    short = {"run_id": run_id, "cluster.address": address}
    return [*overrides, *(f"{key}={value}" for key, value in short.items() if value is not None)]


def option_words(**options: object) -> list[str]:
    """Options as words of a command line; None is left out, a list repeats its option."""
    words = []
    for name, value in options.items():
        for one in value if isinstance(value, list) else [] if value is None else [value]:
            words += [f"--{name.replace('_', '-')}", str(one)]
    return words


def write_json(path: Path | None, result: Mapping[str, Any]) -> None:
    """Write a result, if a file was named; NaN becomes null, so that every JSON reader can read it."""
    if path is not None:
        path.write_text(json.dumps(_finite(result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
