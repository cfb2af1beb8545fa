"""Takes secrets out of texts before others see them: the one place for errors, records, reports and MLflow.

Knows nothing of where the texts go. Configs that hold a login are refused before they get anywhere
(`pipelines.config.logins`); this is for what is said about them, and for the texts of other libraries.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

HIDDEN = "***"
SHORTEST = 6  # characters of a secret that is looked for as such; shorter ones are part of ordinary words
SECRET_NAME = re.compile(r"SECRET|TOKEN|PASSWORD|PASSWD|CREDENTIAL|_KEY$|APIKEY", re.IGNORECASE)
"""Variables whose names say that their values are secrets."""

_LOGIN = re.compile(
    r"""(?<=://)(?:
        [^/?\#\s'"@]*(?:@[^/?\#\s'"@]*)*    # user and password as the standard has them, or with an @ inside
        |[^/?\#\s'"@:]+:(?!\d+/)[^\s'"@]{0,300}  # a password with a slash inside; HOST:PORT/PATH@... is none
    )@""",
    re.VERBOSE,
)
_WORDS = "secret|passw(?:or)?d|credential|signature|api_?key|access_?key|(?:auth|session)[_-]?token"
_SECRET = rf"[\w.-]{{0,40}}(?:{_WORDS})[\w.-]{{0,40}}"
_HINT = re.compile(rf"{_WORDS}|token|authorization", re.IGNORECASE)  # without one of these `_NAMED` finds nothing
_PLACEHOLDER = r"(?-i: TOKEN | FILE | PATH | SECRET | PASSWORD ) (?! [\w-] )"  # an instruction, no value
_NAMED = re.compile(
    rf"""(  (?: {_SECRET} | (?<=[?&]) token ) \s?=\s?["']?    # PASSWORD=..., ?token=...
         |  ["'] {_SECRET} ["'] \s?:\s? ["']               # "password": "..."
         |  authorization \W{{1,4}} (?: bearer | basic ) [ ]  # a header
    ) (?! {_PLACEHOLDER} ) [^\s"'&,;)}}]+""",
    re.VERBOSE | re.IGNORECASE,
)


def has_login(text: str) -> bool:
    """Whether an address in a text holds a user or a password."""
    return _LOGIN.search(text) is not None


def redact(text: str, known: Iterable[str] = ()) -> str:
    """A text without the logins of its addresses, without values that are called a secret, and without known ones."""
    for secret in known:
        if len(secret) >= SHORTEST:
            text = text.replace(secret, HIDDEN)
    text = _LOGIN.sub(f"{HIDDEN}@", text)
    if _HINT.search(text) is None:  # most texts; to look for a name around each place costs microseconds a character
        return text
    return _NAMED.sub(rf"\1{HIDDEN}", text)


def redacted(value: Any) -> Any:
    """The plain values of a record, each text redacted."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redacted(item) for key, item in value.items()}
    return [redacted(item) for item in value] if isinstance(value, list | tuple) else value
