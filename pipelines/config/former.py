"""Names that keys and values had in earlier versions: they are still read, with a note that gives the new name.

Digests are taken over the former words, so that a run that was begun with an earlier version can be continued.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from elder.errors import ConfigError
from elder.pipelines.config.document import COMMAND_LINE, Document

FORMER_KEYS = {
    "cluster.patience_s": "cluster.wait_for_resources_s",
    "tracking.patience_s": "tracking.retry_timeout_s",
}
FORMER_VALUES = {"stream.strategy": {"apart": "isolated"}}
REPLACED_VALUES = {"data.source": {"countries": "geography:chat"}}
"""What took the place of a value and is not the same: a run that was begun with it cannot be continued."""


def renamed(document: Document) -> Document:
    """The document with today's names of keys and values, and a note for each that has a former one.

    Raises:
        ConfigError: A key is given under both names.
    """
    values, places, raw = dict(document.values), dict(document.places), dict(document.raw)
    notes, problems = list(document.notes), []
    for key, now in FORMER_KEYS.items():
        (section, former), (_, name) = key.split("."), now.split(".")
        own = values.get(section)
        if not isinstance(own, Mapping) or former not in own:
            continue
        overridden = places.get(key) == COMMAND_LINE != places.get(now)
        if name in own and not overridden:
            problems.append(f"{document.at(key)}: is the former name of '{now}', which is given as well")
            continue
        notes.append(f"{document.at(key)} is now called {now}")
        others = {given: value for given, value in own.items() if given != former}
        values[section] = {**others, name: own[former]}
        for known in (places, raw):
            if key in known:
                known[now] = known.pop(key)
    for kind, text in ((FORMER_VALUES, "is now called"), (REPLACED_VALUES, "was replaced by")):
        for key, words in kind.items():
            section, _, name = key.partition(".")
            own = values.get(section)
            word = own.get(name) if isinstance(own, Mapping) else None
            if isinstance(own, Mapping) and isinstance(word, str) and word in words:
                notes.append(f"{document.at(key)}: '{word}' {text} '{words[word]}'")
                values[section] = {**own, name: words[word]}
    if problems:
        raise ConfigError(problems)
    return replace(document, values=values, places=places, raw=raw, notes=tuple(notes))


def in_former_words(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value, with the words that digests have always been taken over."""
    former = {key: {now: before for before, now in words.items()} for key, words in FORMER_VALUES.items()}
    return {key: former[key].get(value, value) if key in former else value for key, value in flat.items()}
