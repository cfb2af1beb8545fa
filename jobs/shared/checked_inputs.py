"""What `elder validate` finds out: the checks of `check_inputs`, with the edits read one by one and not kept."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from elder.errors import ConfigError
from elder.jobs.shared.preflight import check_model, models_here, noting
from elder.jobs.shared.wiring import home
from elder.pipelines.config.run import RunConfig
from elder.pipelines.run.inputs import KNOWN_NOTE, check_stream, read_ability, read_text
from elder.pipelines.run.requirements import check_text, read_windows

QUIET_S = 5.0  # between two lines of progress


@dataclass(frozen=True)
class CheckedInputs:
    """A stream that was checked and not kept.

    Attributes:
        edits: How many there are.
        digest: That of the stream.
        lines: What was read and what was left out, in sentences.
        read: The same as plain JSON values.
        notes: Sentences on what could not be checked.
        skipped: The records that were left out because they cannot be edited: the place of each, and why.
    """

    edits: int
    digest: str
    lines: list[str]
    read: dict[str, Any]
    notes: list[str]
    skipped: tuple[str, ...] = ()


def check_long_inputs(config: RunConfig, say: Callable[[str], None]) -> CheckedInputs:
    """Check the base model's files, then the data against its context length, in constant memory.

    Args:
        config: The resolved config.
        say: Takes a line of progress, every few seconds.

    Raises:
        InputError: Everything that is wrong with model and data, at once.
    """
    problems: list[str] = []
    notes: list[str] = []
    checked: CheckedInputs | None = None
    tokenizer, positions = check_model(config, problems, notes)
    if config.data.known:
        notes.append(KNOWN_NOTE)
    with noting(problems):
        stream = check_stream(config, tokenizer, positions, models_here(), _every_few_seconds(say))
        read = stream.reading
        checked = CheckedInputs(stream.edits, stream.digest, read.lines(), read.to_dict(), notes, stream.skipped)
    with noting(problems):
        read_ability(config, home())
    with noting(problems):
        read_text(config)
    with noting(problems):
        if models_here():
            check_text(config)
        if tokenizer is not None:
            read_windows(config, tokenizer, positions)
    if problems or checked is None:
        raise ConfigError(problems)
    return checked


def _every_few_seconds(say: Callable[[str], None]) -> Callable[[int], None]:
    begun = last = time.monotonic()

    def progress(count: int) -> None:
        nonlocal last
        if count % 100 == 0 and (now := time.monotonic()) - last >= QUIET_S:
            last = now
            say(f"read {count:,} edits in {now - begun:.0f} s")

    return progress
