"""The record that everything else is about: one factual correction.

Knows nothing of models, files or tokenizers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any

from elder.errors import DataError
from elder.texts import HALF, is_writable, text_problem

TEXT_FIELDS = ("subject", "ground_truth", "source", "author", "reason")
PROBE_FIELDS = ("locality", "portability", "same_subject", "mentions", "extended_names")


@dataclass(frozen=True, slots=True)
class Probe:
    """A prompt beside an edit: one that it must leave alone, or one that it implies, with its answer if known."""

    prompt: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """One fact to be changed: after the edit the model continues `prompt` with `target`.

    Attributes:
        prompt: Text whose continuation changes; ends where the answer begins.
        target: The new answer. `elder.joining` says how the two become one text.
        subject: The entity the fact is about, as it stands in the prompt; see `elder.subjects.find_subject`.
        id: Content id; made from prompt, target and subject when empty.
        ground_truth: What the model said, or should have said, before.
        rephrases: Other wordings of `prompt`. The first half trains, the rest measures (see below).
        locality: Prompts whose continuation must not change.
        portability: Prompts whose answer follows from the new fact.
        source: Where the correction comes from; kept for the audit trail, like `author` and `reason`.
        subject_at: Where the subject begins in the prompt, as the dataset knows it; None: its last occurrence.
        same_subject: Other questions about the subject, whose answer must not change.
        mentions: Prompts that mention the subject and ask about another, whose answer must not change.
        extended_names: Prompts about a longer name that holds the subject's, whose answer must not change.
        aliases: Other names of the subject; the new fact holds under them too.
    """

    prompt: str
    target: str
    subject: str | None = None
    id: str = ""
    ground_truth: str | None = None
    rephrases: tuple[str, ...] = ()
    locality: tuple[Probe, ...] = ()
    portability: tuple[Probe, ...] = ()
    source: str | None = None
    author: str | None = None
    reason: str | None = None
    subject_at: int | None = None
    same_subject: tuple[Probe, ...] = ()
    mentions: tuple[Probe, ...] = ()
    extended_names: tuple[Probe, ...] = ()
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            object.__setattr__(self, "id", content_id(self.prompt, self.target, self.subject))

    @property
    def training_prompts(self) -> tuple[str, ...]:
        """The prompt and the first half (rounded down) of the rephrases: all that training may see."""
        return (self.prompt, *self.rephrases[: len(self.rephrases) // 2])

    @property
    def heldout_rephrases(self) -> tuple[str, ...]:
        """The other half of the rephrases, disjoint from the training prompts: they measure generalization."""
        seen = set(self.training_prompts)
        return tuple(text for text in self.rephrases[len(self.rephrases) // 2 :] if text not in seen)

    def subject_place(self, text: str) -> int | None:
        """Where the subject begins in a text that ends in the prompt, if the dataset knows it."""
        if self.subject_at is None or not text.endswith(self.prompt):
            return None
        return len(text) - len(self.prompt) + self.subject_at

    @property
    def all_probes(self) -> tuple[tuple[str, Probe], ...]:
        """All probes, each with a name for messages, such as `locality[0]`."""
        return tuple((f"{name}[{i}]", probe) for name in PROBE_FIELDS for i, probe in enumerate(getattr(self, name)))

    def to_dict(self) -> dict[str, Any]:
        """The record as plain JSON values, empty fields left out; `from_dict` reads it back."""
        record: dict[str, Any] = {"id": self.id, "prompt": self.prompt, "target": self.target}
        for name in TEXT_FIELDS:
            if getattr(self, name) is not None:
                record[name] = getattr(self, name)
        if self.subject_at is not None:
            record["subject_at"] = self.subject_at
        if self.rephrases:
            record["rephrases"] = list(self.rephrases)
        if self.aliases:
            record["aliases"] = list(self.aliases)
        for name in PROBE_FIELDS:
            probes = getattr(self, name)
            if probes:
                record[name] = [
                    {"prompt": p.prompt} if p.answer is None else {"prompt": p.prompt, "answer": p.answer}
                    for p in probes
                ]
        return record

    @classmethod
    def from_dict(cls, record: Mapping[str, Any], where: str = "edit") -> Edit:
        """Build an edit from one JSON object.

        Args:
            record: The object, in the layout of the JSONL format (see docs/data.md).
            where: How errors name the place, such as `edits.jsonl:17`.

        Raises:
            DataError: A required field is missing or empty, a field is unknown or has the wrong type.
        """
        problems = list(_problems(record))
        if problems:
            raise DataError([f"{where}: {problem}" for problem in problems])
        texts: dict[str, Any] = {name: record.get(name) for name in TEXT_FIELDS}
        probes: dict[str, Any] = {name: tuple(_probe(p) for p in record.get(name) or ()) for name in PROBE_FIELDS}
        prompt, target = record["prompt"], record["target"].rstrip()
        return cls(
            prompt=prompt,
            target=target,
            # Ids have always been made without the white space around: edits keep their names.
            id=str(record.get("id") or content_id(prompt.rstrip(), target.strip(), texts["subject"])),
            subject_at=record.get("subject_at"),
            rephrases=tuple(record.get("rephrases") or ()),
            aliases=tuple(record.get("aliases") or ()),
            **probes,
            **texts,
        )


def content_id(prompt: str, target: str, subject: str | None) -> str:
    """Sixteen hexadecimal digits that name an edit by its content, the same on every machine."""
    text = json.dumps([prompt, target, subject], ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def unusable_texts(edit: Edit) -> list[str]:
    """Why the texts of an edit cannot be used: a prompt or target that nobody can see, a text that no file can hold."""
    problems = [
        f"field '{name}' {wrong}" for name in ("prompt", "target") if (wrong := text_problem(getattr(edit, name)))
    ]
    probes = [text for _, probe in edit.all_probes for text in (probe.prompt, probe.answer)]
    others = (edit.id, *(getattr(edit, name) for name in TEXT_FIELDS), *edit.rephrases, *edit.aliases, *probes)
    if not all(is_writable(text) for text in others if text is not None):
        problems.append(f"it holds {HALF}")
    return problems


def dataset_digest(edits: Iterable[Edit]) -> str:
    """The sha256 of a stream of edits, order included."""
    hasher = hashlib.sha256()
    for edit in edits:
        hasher.update(json.dumps(edit.to_dict(), sort_keys=True, ensure_ascii=False).encode())
        hasher.update(b"\n")
    return hasher.hexdigest()


def _probe(record: Mapping[str, Any]) -> Probe:
    answer = record.get("answer")
    return Probe(record["prompt"], answer.rstrip() if answer is not None else None)


def _meant(name: Any, known: Iterable[str]) -> str:
    from elder.options.messages import suggestion  # brings pydantic, which sound edits do not need

    return suggestion(str(name), known)


def _problems(record: Any) -> list[str]:
    """What is wrong with one JSON object, in the user's words; empty when it is an edit."""
    if not isinstance(record, Mapping):
        return [f"expected a JSON object, found {type(record).__name__}"]
    problems = []
    known = {f.name for f in fields(Edit)}
    for name in sorted(set(record) - known):
        problems.append(f"unknown field '{name}'{_meant(name, known)} (known: {', '.join(sorted(known))})")
    for name in ("prompt", "target"):
        value = record.get(name)
        if name not in record:
            problems.append(f"field '{name}' is missing")
        elif not isinstance(value, str):
            problems.append(f"field '{name}' must be text, found {type(value).__name__}")
        elif wrong := text_problem(value):
            problems.append(f"field '{name}' {wrong}")
    for name in TEXT_FIELDS:
        if record.get(name) is not None and not isinstance(record[name], str):
            problems.append(f"field '{name}' must be text, found {type(record[name]).__name__}")
    if isinstance(record.get("id"), bool) or not isinstance(record.get("id"), str | int | None):
        problems.append(f"field 'id' must be text, found {type(record['id']).__name__}")
    problems += _place_problems(record)
    if record.get("aliases") and not record.get("subject"):
        problems.append("field 'aliases' needs a subject")
    for name in ("rephrases", "aliases"):
        given = record.get(name) or []
        if not isinstance(given, list) or not all(isinstance(text, str) and text.strip() for text in given):
            problems.append(f"field '{name}' must be a list of non-empty texts")
    for name in PROBE_FIELDS:
        problems += _probe_problems(name, record.get(name) or [], answer_required=name == "portability")
    return problems


def _place_problems(record: Mapping[str, Any]) -> list[str]:
    at, subject, prompt = (record.get(name) for name in ("subject_at", "subject", "prompt"))
    if at is None:
        return []
    if not isinstance(at, int) or isinstance(at, bool):
        return [f"field 'subject_at' must be a whole number, found {type(at).__name__}"]
    if not isinstance(subject, str) or not isinstance(prompt, str):
        return ["field 'subject_at' needs a prompt and a subject"]
    found = at >= 0 and prompt.startswith(subject, at)
    return [] if found else [f"field 'subject_at' is {at}, where the subject '{subject}' does not begin in the prompt"]


def _probe_problems(name: str, probes: Any, answer_required: bool) -> list[str]:
    if not isinstance(probes, list):
        return [f"field '{name}' must be a list of objects with a 'prompt'"]
    problems = []
    for i, probe in enumerate(probes):
        if not isinstance(probe, Mapping) or not isinstance(probe.get("prompt"), str) or not probe["prompt"].strip():
            problems.append(f"{name}[{i}] must be an object with a non-empty text 'prompt'")
        elif not isinstance(probe.get("answer"), str) and (answer_required or probe.get("answer") is not None):
            problems.append(f"{name}[{i}] must have a text 'answer'")
        elif set(probe) - {"prompt", "answer"}:
            problems.append(f"{name}[{i}] has unknown fields: {', '.join(sorted(set(probe) - {'prompt', 'answer'}))}")
    return problems
