"""What is asked of a model about a list of edits: one question for each prompt of each part.

Knows nothing of models or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from elder.edit import Edit
from elder.errors import ConfigError

DEFAULT_PARTS = ("reliability", "generalization", "locality", "portability", "scope")
EXTRA_PARTS = ("fluency", "counterfact", "zsre", "perplexity")
PARTS = (*DEFAULT_PARTS, *EXTRA_PARTS)
PROTOCOLS = ("generate", "forced")

ANSWERED = ("reliability", "generalization", "portability")
"""Parts whose answers are judged against a given one; `locality` is judged against the unedited model."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt put to a model.

    Attributes:
        edit: Index of the edit that it belongs to.
        part: `reliability`, `generalization`, `locality` or `portability`.
        prompt: The text to be continued.
        answer: The right answer; None for a locality probe without a known one.
    """

    edit: int
    part: str
    prompt: str
    answer: str | None


def questions(edits: Sequence[Edit], parts: Sequence[str]) -> list[Question]:
    """All questions of the given parts, edit by edit."""
    asked: list[Question] = []
    for index, edit in enumerate(edits):
        if "reliability" in parts:
            asked.append(Question(index, "reliability", edit.prompt, edit.target))
        if "generalization" in parts:
            asked += [Question(index, "generalization", text, edit.target) for text in edit.heldout_rephrases]
        if "locality" in parts:
            asked += [Question(index, "locality", probe.prompt, probe.answer) for probe in edit.locality]
        if "portability" in parts:
            asked += [Question(index, "portability", probe.prompt, probe.answer) for probe in edit.portability]
    return asked


def check_names(protocols: Sequence[str], parts: Sequence[str]) -> None:
    """Refuse unknown names.

    Raises:
        ConfigError: A protocol or part is unknown, or there is no protocol; lists all problems.
    """
    problems = [f"unknown protocol '{p}' (known: {', '.join(PROTOCOLS)})" for p in protocols if p not in PROTOCOLS]
    problems += [f"unknown part '{p}' (known: {', '.join(PARTS)})" for p in parts if p not in PARTS]
    if not protocols:
        problems.append(f"no protocol given (known: {', '.join(PROTOCOLS)})")
    if problems:
        raise ConfigError(problems)
