"""Prompts near an edit whose answer must stay: about its subject, mentioning it, about a longer name that holds it.

A data set gives them, or they are made from the edit by the rules below. Knows nothing of models.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from elder.edit import Edit
from elder.joining import spaceless
from elder.subjects import find_subject

NEAR = {"same_subject": "same_subject", "mention": "mentions", "name": "extended_names"}
"""Kinds of such prompts, and the fields of an edit that give them."""

MADE = 3  # prompts of a kind that are made for an edit, at most
MENTION = "{} was mentioned. {}"
EXTENSIONS = ("{}son", "{}-Smith", "New {}")
OTHER_QUESTIONS = (
    "{} is best known for",
    "The full name of {} is",
    "The colour that people associate with {} is",
    "The closest rival of {} is",
    "The first book about {} was written by",
    "Many people compare {} with",
)
"""Questions that make sense for persons, places and things alike."""

COMMON = frozenset({"about", "from", "many", "most", "that", "this", "with", "what", "which", "whose", "where", "when"})


@dataclass(frozen=True)
class Edited:
    """What a stream has edited so far, so that nothing is made that may rightly have changed.

    Attributes:
        texts: All prompts and rephrases.
        subjects: All subjects, in lower case.
    """

    texts: frozenset[str]
    subjects: frozenset[str]

    @classmethod
    def of(cls, edits: Iterable[Edit]) -> Edited:
        """By these edits."""
        known = list(edits)
        texts = frozenset(text for edit in known for text in (edit.prompt, *edit.rephrases))
        return cls(texts, frozenset(edit.subject.strip().casefold() for edit in known if edit.subject))


def given_prompts(edit: Edit, kind: str) -> list[str]:
    """The prompts of a kind that the data set gives."""
    return [probe.prompt for probe in getattr(edit, NEAR[kind])]


def made_prompts(edit: Edit, kind: str, edited: Edited) -> list[str]:
    """The prompts of a kind that are made from an edit; none without a subject in its prompt.

    - `same_subject`: the first of `OTHER_QUESTIONS` that share no word with the edit's own wordings. Other edits
      about the subject would be no help: their answers change too.
    - `mention`: its first locality prompts, each after a sentence that mentions the subject. Left out are prompts
      about the subject itself and those that the stream edits.
    - `name`: its prompt with longer names in the place of the subject (`EXTENSIONS`), unless the stream edits them.

    Args:
        edit: The edit.
        kind: One of `NEAR`.
        edited: What the stream has edited, this edit included.
    """
    place = find_subject(edit.prompt, edit.subject, edit.subject_at)
    if place is None or edit.subject is None:
        return []
    subject = edit.prompt[slice(*place)]
    if kind == "same_subject":
        found = _other_questions(edit, subject)
    elif kind == "mention":
        neighbours = [probe.prompt for probe in edit.locality if probe.prompt not in edited.texts]
        found = [MENTION.format(subject, text) for text in neighbours if find_subject(text, edit.subject) is None]
    else:
        found = _longer_names(edit.prompt, place, edited)
    return [text for text in dict.fromkeys(found) if text not in edited.texts][:MADE]


def alias_prompts(edit: Edit) -> list[str]:
    """The edit's prompt under the other names of its subject."""
    place = find_subject(edit.prompt, edit.subject, edit.subject_at)
    if place is None:
        return []
    return [edit.prompt[: place[0]] + alias + edit.prompt[place[1] :] for alias in dict.fromkeys(edit.aliases)]


def _other_questions(edit: Edit, subject: str) -> list[str]:
    asked = _words((edit.prompt, *edit.rephrases))
    return [text.format(subject) for text in OTHER_QUESTIONS if not asked & _words((text,))]


def _words(texts: Sequence[str]) -> set[str]:
    """Words of four letters and more that say what is asked."""
    return {word for text in texts for word in re.findall(r"\w{4,}", text.casefold())} - COMMON


def _longer_names(prompt: str, place: tuple[int, int], edited: Edited) -> list[str]:
    before, subject, after = prompt[: place[0]], prompt[slice(*place)], prompt[place[1] :]
    if not subject[-1].isalpha() or spaceless(subject[-1]):
        return []
    if find_subject(before, subject) or find_subject(after, subject):
        return []  # the subject would still be named beside the longer name
    names = [extension.format(subject) for extension in EXTENSIONS]
    return [before + name + after for name in names if name.casefold() not in edited.subjects]
