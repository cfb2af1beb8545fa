"""Addresses that hold a user or a password are refused: a config is printed, logged and stored. No message repeats one.

Knows nothing of which keys there are, but for what to do instead of some.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from elder.errors import ConfigError
from elder.pipelines.config.document import Document
from elder.redact import has_login

FETCH = "fetch the files with the program that knows it, and give their path"
S3 = "credentials come from the AWS chain: environment, profile, or the role of the machine"
REMEDIES = {
    "tracking.mlflow": "export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead",
    "tracking.store": S3,
    "tracking.s3.endpoint_url": S3,
    "model.source": S3,
    "cluster.address": "export RAY_AUTH_TOKEN instead",
}


def refuse_logins(document: Document) -> Document:
    """The document, if none of its keys and values holds a login.

    Raises:
        ConfigError: Some do; all of their keys are named.
    """
    problems = [
        f"{document.at(key)}: holds a user or a password, which would be printed and stored with the run; "
        f"{REMEDIES.get(key, FETCH)}"
        for key in dict.fromkeys(_with_login(document.values, ""))
    ]
    if problems:
        raise ConfigError(problems)
    return document


def _with_login(value: Any, key: str) -> Iterator[str]:
    """The dotted keys at which, or in which, a login is."""
    if isinstance(value, str) and has_login(value):
        yield key
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            if has_login(name):
                yield key or "the top"
            else:
                yield from _with_login(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _with_login(inner, key)
