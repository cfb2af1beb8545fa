"""Which earlier edits a new one corrects: those about the same subject that ask the same.

Part of elder-plus. A corrected fact comes back in any wording. So an edit corrects an earlier one of the same subject
if the gate would take its own prompts for questions about that one, unless both say which answer they replace and these
differ: the two would answer the same prompts, and the newer one counts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from elder.edit import Edit
from elder.mixture.deferral import LENIENT
from elder.subjects import ALIKE

SURELY_ALIKE = 0.6  # answer similarity from which two questions are one although nobody knows their old answer


def same_name(subject: str | None) -> str | None:
    """A subject as it is compared: composed accents, plain quotes and dashes, single spaces, no regard to capitals."""
    if not subject or not subject.strip():
        return None
    return " ".join(unicodedata.normalize("NFC", subject).translate(ALIKE).casefold().split())


def may_correct(edit: Edit, earlier: Edit) -> bool:
    """Whether an edit may be about the fact of an earlier one, from their texts alone."""
    if edit.prompt == earlier.prompt:
        return True
    name = same_name(edit.subject)
    if name is None or name != same_name(earlier.subject):
        return False
    old, formerly = edit.ground_truth, earlier.ground_truth
    return not (old and formerly) or same_name(old) in (same_name(formerly), same_name(earlier.target))


@dataclass(frozen=True)
class Contention:
    """When two edits of a subject contend for the same prompts: the rule of the gate.

    Attributes:
        least: The least answer similarity.
        sure: The least log-probability of the old answer's first token, in nats.
        trade: Nats above `sure` that make up for a similarity of 1 below `least`, by `LENIENT` at most; None: none do.
    """

    least: float
    sure: float
    trade: float | None

    def holds(self, alike: float, agreed: float | None) -> bool:
        """Whether they contend.

        Args:
            alike: Answer similarity of their prompts.
            agreed: How surely the base says the old answer of one at the prompts of the other; None: nobody knows.
        """
        if agreed is None:
            return alike >= max(self.least, SURELY_ALIKE)
        missing = max(0.0, self.least - alike)
        if self.trade is None:
            return missing == 0 and agreed >= self.sure
        return missing <= LENIENT and agreed >= self.sure + self.trade * missing


def answers_of(edit: Edit) -> list[str | None]:
    """The new and the old answer of an edit, as those of two edits are compared."""
    return [same_name(edit.target), same_name(edit.ground_truth)]


def corrected(
    edits: Sequence[Edit],
    questions: Sequence[Tensor],
    agreed: Callable[[int, int], float | None],
    known: Sequence[Mapping[str, Any]],
    stored: Tensor,
    contention: Contention | None,
) -> dict[int, list[int]]:
    """The earlier edits that new ones replace.

    Args:
        edits: E new edits, no two about one fact.
        questions: For each of them the unit answer keys of its wordings, (J, Q).
        agreed: How surely the base says the old answer of an earlier edit (second number) at the prompts of a new one
            (first), as a log-probability; None where it knows none.
        known: Of all N earlier edits: `prompt` (None: it is replaced already), `subject`, and `answers_of` them.
        stored: (N, J, Q) their unit answer keys.
        contention: When two edits contend; None: only an edit of the same prompt is replaced.

    Returns:
        Number of a new edit -> numbers of earlier ones, in order; edits that replace none are not there.
    """
    by_prompt: dict[str, list[int]] = {}
    by_name: dict[str, list[int]] = {}
    for number, record in enumerate(known):
        if record["prompt"] is None:
            continue
        by_prompt.setdefault(record["prompt"], []).append(number)
        if (name := same_name(record["subject"])) is not None:
            by_name.setdefault(name, []).append(number)
    found: dict[int, list[int]] = {}
    for i, edit in enumerate(edits):
        same = set(by_prompt.get(edit.prompt, ()))
        for number in by_name.get(same_name(edit.subject) or "", ()):
            if contention is None:
                break
            told = _same_answer(edit.ground_truth, known[number].get("answers", ()))
            alike = float((questions[i] @ stored[number].T).max())
            held = contention.holds(alike, agreed(i, number)) if told is None else alike >= contention.least - LENIENT
            if held and told is not False:
                same.add(number)
        if same:
            found[i] = sorted(same)
    return found


def _same_answer(old: str | None, answers: Sequence[str | None]) -> bool | None:
    """Whether the old answer of an edit is the old or the new one of an earlier edit; None where one is not told."""
    name = same_name(old)
    if name is None or len(answers) < 2 or answers[1] is None:
        return None
    return name in answers
