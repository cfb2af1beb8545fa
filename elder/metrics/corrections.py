"""Which edits of a stream correct earlier ones, and which answers should be gone since. Pure functions on edits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from elder.edit import Edit
from elder.metrics.text import normalise, same_answer


@dataclass(frozen=True)
class Correction:
    """A fact that was edited more than once.

    Attributes:
        edit: Id of the last edit, which is in force.
        prompts: The prompts of all its edits, the last first.
        superseded: The earlier targets that are not its answer any more.
    """

    edit: str
    prompts: tuple[str, ...]
    superseded: tuple[str, ...]


def corrections(edits: Sequence[Edit]) -> list[Correction]:
    """All corrections within a stream.

    Two edits are about the same fact if a prompt or rephrase of one is a prompt or rephrase of the other and their
    subjects, if both have one, are the same; or if they have the same subject and the later one names the target of
    the earlier as its ground truth.

    Args:
        edits: The stream so far, in order.
    """
    found = []
    for same in _by_fact(edits):
        last = same[-1]
        superseded = tuple(dict.fromkeys(e.target for e in same if not same_answer(e.target, last.target)))
        if superseded:
            prompts = tuple(dict.fromkeys(edit.prompt for edit in reversed(same)))
            found.append(Correction(last.id, prompts, superseded))
    return found


def out_of_force(edits: Sequence[Edit]) -> frozenset[str]:
    """Ids of the edits whose answer a later one of the same fact has replaced by another.

    Args:
        edits: The stream so far, in order.
    """
    return frozenset(
        edit.id for same in _by_fact(edits) for edit in same[:-1] if not same_answer(edit.target, same[-1].target)
    )


def _by_fact(edits: Sequence[Edit]) -> list[list[Edit]]:
    """The edits of each fact, in order."""
    facts: dict[int, list[Edit]] = {}
    for index, fact in enumerate(_facts(edits)):
        facts.setdefault(fact, []).append(edits[index])
    return list(facts.values())


def _facts(edits: Sequence[Edit]) -> list[int]:
    """For each edit the number of the first edit about the same fact."""
    first = list(range(len(edits)))  # of each edit, one that is nearer to the first

    def root(index: int) -> int:
        while first[index] != index:
            first[index] = first[first[index]]
            index = first[index]
        return index

    by_text: dict[str, dict[str | None, int]] = {}
    by_target: dict[tuple[str, str], int] = {}
    for index, edit in enumerate(edits):
        subject = _folded(edit.subject) if edit.subject else None
        earlier = []
        for text in (edit.prompt, *edit.rephrases):
            askers = by_text.setdefault(_folded(text), {})
            # One without a subject may be about any; two with different subjects are about two facts.
            earlier += [i for name, i in askers.items() if name == subject or name is None or subject is None]
            askers.setdefault(subject, index)
        if subject and edit.ground_truth and (subject, normalise(edit.ground_truth)) in by_target:
            earlier.append(by_target[subject, normalise(edit.ground_truth)])
        for other in earlier:
            one, two = sorted((root(index), root(other)))
            first[two] = one
        if subject:
            by_target[subject, normalise(edit.target)] = index
    return [root(index) for index in range(len(edits))]


def _folded(text: str) -> str:
    return " ".join(text.split()).casefold()
