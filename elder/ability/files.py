"""Reads the files of tasks from a folder of the user's. No data come with the package; docs/metrics.md says where from.

Imports no torch. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.ability.item import Item
from elder.ability.prompts import conll03
from elder.ability.tasks import NAMES, TASKS, Task
from elder.datasets.records import Broken, Problems, open_bytes, read_records
from elder.datasets.text import read_text
from elder.errors import DataError

PASSAGE = 1000  # characters of a passage of running text at least, some 250 tokens
COLUMNS = "expected WORD POS CHUNK TAG, as in CoNLL-2003"


def read_tasks(folder: Path, names: Sequence[str], count: int | None = None) -> dict[str, tuple[Item, ...]]:
    """The items of some tasks, chosen alike on every machine.

    Args:
        folder: Where the files are: `gsm8k_test.jsonl`, `conll03_test.txt`, ..., each with or without `.gz`.
        names: Of the tasks.
        count: How many records of each task are taken, those of the smallest sha256, whatever the order of the file;
            None takes all.

    Raises:
        DataError: A file is missing, is no file of that task, or holds nothing; all of it at once.
    """
    found: dict[str, tuple[Item, ...]] = {}
    problems: list[str] = []
    for name in names:
        try:
            found[name] = _items(folder, TASKS[name], count)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    return found


def items_digest(items: Sequence[Item]) -> str:
    """sha256 of what is asked and what is right."""
    plain = [[one.prompt, one.gold, one.choices, one.group] for one in items]
    return hashlib.sha256(json.dumps(plain, ensure_ascii=False).encode()).hexdigest()


def _items(folder: Path, task: Task, count: int | None) -> tuple[Item, ...]:
    path = _path(folder, task)
    if task.kind == "text":
        built = [[Item(text)] for text in _passages(path)]
    elif task.fields:
        built = _from_records(path, task)
    else:
        built = [conll03(sentence) for sentence in _sentences(path)]
    built = sorted(filter(None, built), key=items_digest)
    if not built:
        raise DataError(f"{path}: holds nothing to ask for '{task.name}'")
    return tuple(item for record in built[:count] for item in record)


def _path(folder: Path, task: Task) -> Path:
    for name in (task.file, f"{task.file}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise DataError(
        f"{folder / task.file}: no such file (nor with .gz), which the task '{task.name}' reads; "
        "docs/metrics.md says where the data of every task come from"
    )


def _from_records(path: Path, task: Task) -> list[list[Item]]:
    built, problems = [], Problems()
    for record in read_records(path):
        if isinstance(record, Broken):
            problems.add(record.problem)
            continue
        lacking = _lacking(record.value, task)
        try:
            if lacking:
                raise ValueError(lacking)
            built.append(task.build(record.value))
        except ValueError as error:
            problems.add(f"{record.where}: {error}")
    problems.raise_any()
    return built


def _lacking(record: Any, task: Task) -> str:
    if not isinstance(record, dict):
        return f"expected an object with the fields {', '.join(task.fields)}"
    absent = [name for name in task.fields if name not in record]
    return f"the task '{task.name}' needs the field '{absent[0]}'" if absent else ""


def _sentences(path: Path) -> Iterator[Mapping[str, list[str]]]:
    """Sentences of words in columns, one word a line, a blank line behind each; `-DOCSTART-` begins a document."""
    words: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*_lines(path), ""], start=1):
        parts = line.split()
        if parts and len(parts) < 2:
            raise DataError(f"{path}:{number}: {COLUMNS}, found {line.strip()!r}")
        if parts and parts[0] != "-DOCSTART-":
            words.append(parts[0])
            tags.append(parts[-1])
        elif words and not parts:
            yield {"words": words, "tags": tags}
            words, tags = [], []


def _lines(path: Path) -> list[str]:
    try:
        with open_bytes(path) as handle:
            return handle.read().decode("utf-8").splitlines()
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from error


def _passages(path: Path) -> Iterator[str]:
    """Paragraphs, gathered until they are long enough to have something before what is scored."""
    held = ""
    for text in read_text(str(path)):
        held += text
        if len(held) >= PASSAGE:
            yield held
            held = ""


def names_problem(names: Sequence[str]) -> str | None:
    """What is wrong with a list of names of tasks; None when nothing is."""
    wrong = [name for name in names if name not in TASKS]
    return f"no task '{wrong[0]}' (known: {', '.join(NAMES)})" if wrong else None
