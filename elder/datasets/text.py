"""Ordinary text, document by document: from a file, a hub dataset, or what a generated world's model was taught.

Knows nothing of tokens or models, or of what the text is for.
"""

from __future__ import annotations

import gzip
import random
import zlib
from collections.abc import Iterator
from itertools import chain, islice
from pathlib import Path

from elder.datasets.records import Broken, read_records
from elder.errors import DataError
from elder.paths import check_plain, user_path

WORLD, HUB = "world:", "hub:"
LOOKED_AT = 1000  # lines that decide whether a file holds a document a line or paragraphs
FIELD = "text"


def read_text(source: str) -> Iterator[str]:
    """The documents of a source, in its order.

    Args:
        source: `world:NAME`, what that world's model was taught; `hub:DATASET[:CONFIG]`, or `hub:DIRECTORY` for a
            copy on disk; a file `.jsonl` (or `.json`), with a field `text`; or any other file of text: paragraphs if
            blank lines part them, else a document a line. Files may end in `.gz`.

    Raises:
        DataError: There is no such file or dataset, or it cannot be read.
        ModelError: There is no world of this name.
    """
    if source.startswith(WORLD):
        yield from _world(source)
    elif source.startswith(HUB):
        yield from _hub(source.removeprefix(HUB))
    elif source.removesuffix(".gz").endswith((".jsonl", ".json")):
        for record in read_records(user_path(source)):
            if isinstance(record, Broken):
                raise DataError(record.problem)
            yield _field(record.value, record.where)
    else:
        yield from _plain(user_path(source))


def check_text(source: str) -> None:
    """Find out cheaply whether `read_text` has anything to read; a hub dataset is not asked for.

    Raises:
        DataError: There is no such file, it cannot be read, or its first document does not come.
        ModelError: There is no world of this name.
    """
    if source.startswith(HUB):
        return
    if not any(text.strip() for text in islice(read_text(source), LOOKED_AT)):
        raise DataError(f"{source}: holds no text")


def _world(source: str) -> Iterator[str]:
    """Statements in the wordings of the training, and generic sentences, mixed; every one of them once."""
    from elder.world.facts import make_world
    from elder.world.prose import sentences
    from elder.world.recipe import find_recipe

    recipe = find_recipe(source)
    seed = recipe.size.seed
    texts = [f"{prompt} {answer}" for prompt, answer in make_world(recipe.size).prompts(trained=True)]
    texts += sentences(recipe.training.sentences, random.Random(f"training {seed}"))
    random.Random(f"text {seed}").shuffle(texts)
    yield from texts


def _hub(name: str) -> Iterator[str]:
    from elder.datasets.hub import hub_records

    local = user_path(name)
    for record in hub_records(name, local if local.exists() else None):
        if isinstance(record, Broken):
            raise DataError(record.problem)
        if FIELD not in record.value:  # tables leave empty fields out
            if record.value:
                raise DataError(_no_field(record.where, record.value))
            continue
        yield _field(record.value, record.where)


def _plain(path: Path) -> Iterator[str]:
    check_plain(path, DataError)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
            first = list(islice(lines, LOOKED_AT))
            rest = chain(first, lines)
            yield from _paragraphs(rest) if any(not line.strip() for line in first) else rest
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _paragraphs(lines: Iterator[str]) -> Iterator[str]:
    held: list[str] = []
    for line in lines:
        if line.strip():
            held.append(line)
        elif held:
            yield "".join(held)
            held = []
    if held:
        yield "".join(held)


def _field(value: object, where: str) -> str:
    text = value.get(FIELD) if isinstance(value, dict) else None
    if not isinstance(text, str):
        raise DataError(_no_field(where, value))
    return text


def _no_field(where: str, value: object) -> str:
    found = ", ".join(map(str, value)) if isinstance(value, dict) else type(value).__name__
    return f"{where}: expected an object with the text in a field '{FIELD}', found {found}"
