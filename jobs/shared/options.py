"""Arguments that verbs share: CONFIG, overrides, `--run-id`, `--json`."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import click

from elder.errors import ConfigError

F = TypeVar("F", bound=Callable[..., Any])


def config_arguments(function: F) -> F:
    """CONFIG [key.sub=value ...] and `--run-id ID`."""
    function = click.option("--run-id", metavar="ID", help="Short for run_id=ID: name the run, or continue it.")(
        function
    )
    function = click.argument("overrides", nargs=-1, metavar="[KEY.SUB=VALUE]...")(function)
    return click.argument("config", metavar="CONFIG")(function)


def json_option(function: F) -> F:
    """`--json FILE`: the machine-readable result."""
    kind = click.Path(dir_okay=False, path_type=Path)
    help = "Write the result."
    return click.option("--json", "json_file", metavar="FILE", type=kind, help=help, callback=_writable)(function)


def mlflow_option(function: F) -> F:
    """`--mlflow URL`: where to look when no config says so."""
    text = "Tracking server or sqlite file; default: MLFLOW_TRACKING_URI, else elder-runs/mlflow.db."
    return click.option("--mlflow", metavar="URL", help=text)(function)


def all_overrides(overrides: tuple[str, ...], run_id: str | None, address: str | None = None) -> list[str]:
    """The overrides with the short options behind them."""
    found = list(overrides)
    if run_id is not None:
        found.append(f"run_id={run_id}")
    if address is not None:
        found.append(f"cluster.address={address}")
    return found


def check_json_target(path: Path | None) -> None:
    """Find out before the work, not behind it, that the result cannot be written.

    Raises:
        ConfigError: The folder does not exist or refuses us.
    """
    if path is None:
        return
    try:
        with tempfile.TemporaryFile(dir=path.parent or Path()):
            pass
    except OSError as error:
        reason = f"--json {path}: cannot be written: {error.strerror}; name a file in a writable folder"
        raise ConfigError(reason) from error


def _writable(context: click.Context, option: click.Parameter, path: Path | None) -> Path | None:
    check_json_target(path)
    return path


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
