"""From nested values to the flat names and texts that MLflow takes. Pure functions; does not import mlflow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from elder.redact import redact, redacted

VALUE_CHARS = 6000  # longest parameter that MLflow takes


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested sections as one level, names joined by dots, values as text."""
    flat: dict[str, str] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{name}."))
        else:
            text = redact(value if isinstance(value, str) else json.dumps(value, default=str))
            flat[_safe(name)] = text if len(text) <= VALUE_CHARS else text[: VALUE_CHARS - 3] + "..."
    return flat


def metric_name(key: str) -> str:
    """A metric's name with characters that MLflow refuses replaced."""
    return _safe(key)


def model_name(name: str) -> str:
    """A logged model's name, in which MLflow takes fewer characters than in a run's name."""
    return re.sub(r"[/:.%\"']+", "-", name).strip("-") or "elder"


def config_text(config: Mapping[str, Any], dump: Callable[..., str]) -> str:
    """The config as YAML, in its own order."""
    return dump(redacted(json.loads(json.dumps(config, default=str))), sort_keys=False, allow_unicode=True)


def table_text(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as the JSON that MLflow's table viewer reads; columns in the order of first appearance."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    data = [[row.get(column) for column in columns] for row in rows]
    return json.dumps({"columns": columns, "data": data}, ensure_ascii=False, default=str)


def _safe(name: str) -> str:
    return re.sub(r"[^\w\-./ :]", "_", name)
