"""A config as a user wrote it, and how it becomes settings: every mistake is named with file, line and key.

Knows nothing of which settings there are; `pipelines.config.files` reads documents.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from elder.options.fields import Settings
from elder.options.messages import details_of, path_of, sentence

COMMAND_LINE = "command line"
"""The place of keys that were given there."""

M = TypeVar("M", bound=Settings)


@dataclass(frozen=True)
class Document:
    """A config as a user wrote it, with the place of every key.

    Attributes:
        values: The nested mapping.
        source: How errors name the whole, such as the file's path.
        places: Dotted key -> where it is written, such as `demo.yaml:12` or `command line`.
        raw: Dotted key -> the text of the value, for keys given on the command line.
        notes: Sentences for the user, such as that a key has a new name.
    """

    values: Mapping[str, Any]
    source: str
    places: Mapping[str, str] = field(default_factory=dict)
    raw: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def at(self, key: str) -> str:
        """How an error names a key: `demo.yaml:12: stream.batch_size`."""
        return f"{self.places.get(key, self.source)}: {key}"


def build(model: type[M], given: Any, document: Document, problems: list[str], prefix: str = "") -> M:
    """Make settings from what a user wrote; everything wrong is added to `problems`.

    Args:
        model: The settings.
        given: The mapping of this section.
        document: Where the mapping comes from, for messages.
        problems: Receives one sentence for each mistake; wrong keys keep their defaults.
        prefix: Dotted name of the section, empty at the top.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        found = details_of(error)
    values = deepcopy(given)
    for details in found:
        path = path_of(details)
        key = ".".join([prefix, *path] if prefix else path)
        text = document.raw.get(key) if details["loc"] == path else None
        if text is not None and _meant_as_text(details):
            _put(values, path, text)  # on the command line `run_id=0042` is text, although YAML reads a number
        else:
            problems.append(f"{document.at(key)}: {sentence(details, model)}")
            values = _without(values, path)
    return build(model, values, document, problems, prefix)


def _meant_as_text(details: ErrorDetails) -> bool:
    wanted = details["type"] in ("string_type", "literal_error")
    return wanted and not isinstance(details["input"], str | list | dict | None)


def _put(values: Any, path: tuple[str, ...], text: str) -> None:
    for name in path[:-1]:
        values = values[name]
    values[path[-1]] = text


def _without(values: Any, path: tuple[str, ...]) -> Any:
    """Nested values without a key; nothing at all without the empty path."""
    if not path:
        return {}
    first, rest = path[0], path[1:]
    kept = {key: value for key, value in values.items() if key != first}
    return {**kept, first: _without(values[first], rest)} if rest else kept
