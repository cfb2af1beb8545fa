"""Edits as texts, and which of them a prompt is about: the subject word for word, then the overlap of the other words.

No model is asked. Edits are numbered as they come and never renumbered, so that a count is a snapshot of the store.
Knows nothing of models or tokenizers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elder.edit import Edit
from elder.editors.baselines.words import overlap, words_of
from elder.subjects import find_subject

FIELDS = ("id", "prompt", "target", "subject", "wordings")


@dataclass(frozen=True)
class StoredEdit:
    """An edit as far as it is looked up.

    Attributes:
        id: Of the edit.
        prompt: Its prompt; a later edit of the same prompt takes its place.
        target: Its answer.
        subject: Must stand in a prompt word for word, if it is known.
        wordings: Texts that ask for the fact, the prompt first.
    """

    id: str
    prompt: str
    target: str
    subject: str | None
    wordings: tuple[str, ...]

    @classmethod
    def of(cls, edit: Edit, rephrases: bool) -> StoredEdit:
        """What is kept of an edit; with `rephrases`, the wordings that training may see."""
        wordings = edit.training_prompts if rephrases else (edit.prompt,)
        return cls(edit.id, edit.prompt, edit.target, edit.subject, wordings)

    def to_json(self) -> list[Any]:
        """The values of `FIELDS`."""
        return [self.id, self.prompt, self.target, self.subject, list(self.wordings)]


@dataclass(frozen=True)
class Found:
    """An edit that a prompt is about: its number, and the overlap of the words, from 0 to 1."""

    number: int
    score: float


@dataclass(frozen=True)
class _Wording:
    number: int
    words: frozenset[str]  # besides those of the subject, where it is in the wording
    subject: str | None
    subject_words: frozenset[str]


class EditStore:
    """All edits of a stream."""

    def __init__(self) -> None:
        self.edits: list[StoredEdit] = []
        self._wordings: dict[str, list[_Wording]] = {}  # by a word that a prompt must hold
        self._latest: dict[str, int] = {}  # prompt -> number
        self._replaced: dict[int, int] = {}  # number -> that of the edit that took its place

    def add(self, edits: Sequence[StoredEdit]) -> None:
        """Store edits after the others."""
        for edit in edits:
            number = len(self.edits)
            if edit.prompt in self._latest:
                self._replaced[self._latest[edit.prompt]] = number
            self._latest[edit.prompt] = number
            self.edits.append(edit)
            for text in edit.wordings:
                self._index(number, edit.subject, text)

    def first(self, count: int) -> EditStore:
        """Another store that holds the first `count` edits."""
        made = EditStore()
        made.add(self.edits[:count])
        return made

    def nearest(self, text: str, most: int, least: float, count: int) -> list[Found]:
        """The edits that a prompt is about, the nearest first; of equally near ones the latest.

        Args:
            text: The user's words.
            most: How many are wanted.
            least: The overlap that an edit must reach.
            count: Edits with this number and later ones are not looked at, nor what they replaced.
        """
        asked, best = words_of(text), dict[int, float]()
        places: dict[str, bool] = {}
        for word in asked:
            for one in self._wordings.get(word, ()):
                if one.number >= count or self._replaced.get(one.number, count) < count:
                    continue
                if not one.subject_words <= asked:
                    continue
                score = overlap(asked - one.subject_words, one.words)
                if score < least or score <= best.get(one.number, -1.0):
                    continue
                if one.subject is not None:
                    if one.subject not in places:
                        places[one.subject] = find_subject(text, one.subject) is not None
                    if not places[one.subject]:
                        continue
                best[one.number] = score
        ranked = sorted(best.items(), key=lambda item: (-item[1], -item[0]))
        return [Found(number, score) for number, score in ranked[:most]]

    def to_json(self) -> list[list[Any]]:
        """All edits as plain values."""
        return [edit.to_json() for edit in self.edits]

    @classmethod
    def from_json(cls, values: Sequence[Sequence[Any]]) -> EditStore:
        """The store that `to_json` described."""
        made = cls()
        made.add([StoredEdit(name, prompt, target, about, tuple(own)) for name, prompt, target, about, own in values])
        return made

    def _index(self, number: int, subject: str | None, text: str) -> None:
        """A wording with a subject is found by the subject's longest word, another one by each of its words."""
        known = subject if find_subject(text, subject) else None
        named = words_of(known) if known else frozenset[str]()
        words = words_of(text)
        one = _Wording(number, words - named, known if named else None, named)
        for word in [max(sorted(named), key=len)] if named else words:
            self._wordings.setdefault(word, []).append(one)


def problems_of(values: Any) -> list[str]:
    """What is wrong with plain values that should be those of a store."""
    if not isinstance(values, list):
        return ["'edits' must be a list"]
    wrong = [number for number, value in enumerate(values) if not _is_edit(value)]
    return [f"'edits': entry {wrong[0]} must hold {', '.join(FIELDS)}"] if wrong else []


def _is_edit(value: Any) -> bool:
    if not isinstance(value, list) or len(value) != len(FIELDS):
        return False
    given: Mapping[str, Any] = dict(zip(FIELDS, value, strict=True))
    texts = all(isinstance(given[name], str) for name in ("id", "prompt", "target"))
    wordings = given["wordings"]
    several = isinstance(wordings, list) and all(isinstance(text, str) for text in wordings)
    return texts and several and isinstance(given["subject"], str | None)
