"""What is asked of a model about a list of edits: one question for each prompt of each part.

Knows nothing of models or tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from elder.edit import Edit
from elder.errors import ConfigError
from elder.metrics.corrections import out_of_force
from elder.metrics.near import NEAR, Edited, alias_prompts, given_prompts, made_prompts

DEFAULT_PARTS = ("reliability", "generalization", "locality", "portability", "scope")
EXTRA_PARTS = ("fluency", "counterfact", "zsre", "perplexity", *NEAR, "stale", "after_answer")
PARTS = (*DEFAULT_PARTS, *EXTRA_PARTS)
PROTOCOLS = ("generate", "forced")

ANSWERED = ("reliability", "generalization", "portability")
"""Parts whose answers are judged against a given one; `LOCAL` ones are judged against the unedited model."""

LOCAL = ("locality", *NEAR)
"""Parts whose answers must stay as they were."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt put to a model.

    Attributes:
        edit: Index of the edit that it belongs to.
        part: `reliability`, `generalization`, `alias`, `portability`, or one of `LOCAL`.
        prompt: The text to be continued.
        answer: The right answer; None for a locality probe without a known one.
        made: The prompt was made, not given: if it is too long it is left out.
    """

    edit: int
    part: str
    prompt: str
    answer: str | None
    made: bool = False


def questions(edits: Sequence[Edit], parts: Sequence[str], so_far: Sequence[Edit] | None = None) -> list[Question]:
    """All questions of the given parts, edit by edit.

    An edit that a later one has corrected is not asked for its own answer any more: giving it would be wrong (`stale`).
    Prompts near an edit (`NEAR`) are asked with the part `locality` where the data set gives them. A part of their
    own also makes them for edits that have none. Aliases belong to `generalization`.

    Args:
        edits: What is asked about.
        parts: The parts.
        so_far: The stream so far, which corrects edits and which made prompts keep clear of; default: the edits.
    """
    asked: list[Question] = []
    gone = out_of_force(edits if so_far is None else so_far) if set(parts) & set(ANSWERED) else frozenset()
    edited = Edited.of(edits if so_far is None else so_far) if set(parts) & set(NEAR) else None
    for index, edit in enumerate(edits):
        valid = [] if edit.id in gone else [part for part in ANSWERED if part in parts]
        if "reliability" in valid:
            asked.append(Question(index, "reliability", edit.prompt, edit.target))
        if "generalization" in valid:
            asked += [Question(index, "generalization", text, edit.target) for text in edit.heldout_rephrases]
            asked += [Question(index, "alias", text, edit.target) for text in alias_prompts(edit)]
        if "locality" in parts:
            asked += [Question(index, "locality", probe.prompt, probe.answer) for probe in edit.locality]
        for kind in NEAR:
            given = given_prompts(edit, kind) if kind in parts or "locality" in parts else []
            asked += [Question(index, kind, text, None) for text in given]
            if kind in parts and not given and edited is not None:
                asked += [Question(index, kind, text, None, made=True) for text in made_prompts(edit, kind, edited)]
        if "portability" in valid:
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
