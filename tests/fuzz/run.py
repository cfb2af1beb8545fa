"""The kinds of inputs, and how many of each."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.fuzz.adapters import ADAPTERS
from tests.fuzz.command_line import COMMAND_LINE
from tests.fuzz.configs import CONFIGS
from tests.fuzz.edit_files import EDIT_FILES
from tests.fuzz.judge import MEMORY_MB, Case, judge, memory_mb
from tests.fuzz.models import MODELS
from tests.fuzz.tables import TABLES

KINDS: Mapping[str, Case] = {**EDIT_FILES, **TABLES, **CONFIGS, **ADAPTERS, **MODELS, **COMMAND_LINE}
WEIGHTS = {"edits": 40, "configs": 15, "adapters": 25, "models": 6, "arguments": 14}
"""Of a hundred inputs, so many are of a group of kinds; a kind's name begins with its group's."""


@dataclass
class Found:
    """What came of the inputs of a kind: how many were refused, and what is wrong with some, by their numbers."""

    refused: int = 0
    wrong: dict[int, str] = field(default_factory=dict)


def shares(inputs: int) -> dict[str, int]:
    """How many inputs of each kind make so many in all."""
    found = {}
    for group, weight in WEIGHTS.items():
        names = [name for name in KINDS if name.startswith(group)]
        count = inputs * weight // 100
        found |= {name: count // len(names) + (index < count % len(names)) for index, name in enumerate(names)}
    return found


def run_kind(kind: str, numbers: Iterable[int], folder: Path) -> Found:
    """Try inputs of one kind, each in an empty folder."""
    found = Found()
    limit = memory_mb() + MEMORY_MB
    for number in numbers:
        folder.mkdir(parents=True)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                logging.disable(logging.CRITICAL)
                verdict = judge(kind, KINDS[kind], number, folder, limit)
        finally:
            logging.disable(logging.NOTSET)
            shutil.rmtree(folder)
        found.refused += verdict.refused is not None
        if verdict.wrong is not None:
            found.wrong[number] = verdict.wrong
    return found
