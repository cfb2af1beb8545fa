"""A stream of edits as a whole: the order, the places, and the checks that need more than one edit.

Knows nothing of files or layouts; a place is a text that someone else gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from elder.datasets.reading import Reading
from elder.datasets.records import capped
from elder.edit import Edit, unusable_texts
from elder.errors import DataError

POLICIES = ("refuse", "last_wins")


class EditStream(list[Edit]):
    """A list of edits that remembers where each one came from.

    An ordinary list to everybody else; slices and copies are plain lists, without places.

    Attributes:
        places: For every edit a text such as `edits.jsonl:17`.
        reading: What was read of the source and what was left out, if the edits come from one.
    """

    def __init__(
        self, edits: Iterable[Edit], places: Sequence[str] | None = None, reading: Reading | None = None
    ) -> None:
        super().__init__(edits)
        self.reading = reading
        self.places: tuple[str, ...] = tuple(places) if places is not None else _numbers(len(self))
        if len(self.places) != len(self):
            raise ValueError(f"{len(self)} edits but {len(self.places)} places")

    def take(self, indices: Iterable[int]) -> EditStream:
        """The edits at the given indices, in that order, with their places."""
        chosen = list(indices)
        return EditStream([self[i] for i in chosen], [self.places[i] for i in chosen], self.reading)


def validate_stream(
    edits: Sequence[Edit],
    conflicts: str = "refuse",
    tokenizer: Any = None,
    max_tokens: int | None = None,
) -> EditStream:
    """Check a stream as a whole before anything expensive starts.

    Args:
        edits: The stream; an `EditStream` lets problems name file and line, else they name the number.
        conflicts: What to do with two edits of the same prompt. `refuse`: a problem. `last_wins`: only
            the last one stays, where it stands.
        tokenizer: Called with a list of texts, gives `input_ids`; with `max_tokens`, lengths are checked.
        max_tokens: The context of the model, in tokens.

    Returns:
        The stream to apply.

    Raises:
        DataError: With all problems: an empty stream, a prompt that comes twice, an id that comes twice,
            a text that cannot be seen or written, a text longer than the context.
    """
    if conflicts not in POLICIES:
        raise DataError(f"conflicts must be one of {', '.join(POLICIES)}, found '{conflicts}'")
    places = edits.places if isinstance(edits, EditStream) and len(edits.places) == len(edits) else None
    stream = EditStream(edits, places, getattr(edits, "reading", None))
    if not stream:
        raise DataError("there are no edits: the stream is empty")
    problems: list[str] = []
    if conflicts == "refuse":
        problems += prompt_problems(stream)
    else:
        last = {edit.prompt: index for index, edit in enumerate(stream)}
        stream = stream.take(index for index, edit in enumerate(stream) if last[edit.prompt] == index)
    problems += text_problems(stream)
    problems += id_problems(stream)
    if tokenizer is not None and max_tokens is not None:
        problems += length_problems(stream, tokenizer, max_tokens)
    if problems:
        raise DataError(capped(problems))
    return stream


def _numbers(count: int) -> tuple[str, ...]:
    return tuple(f"edit {number}" for number in range(1, count + 1))


def _pairs(stream: EditStream, key: Callable[[Edit], str]) -> Iterable[tuple[int, int]]:
    """(earlier, later) indices of neighbouring edits with the same key."""
    seen: dict[str, int] = {}
    for index, edit in enumerate(stream):
        if key(edit) in seen:
            yield seen[key(edit)], index
        seen[key(edit)] = index


def prompt_problems(stream: EditStream) -> list[str]:
    """Prompts that come twice, each with its place and that of the edit before it."""
    problems = []
    for first, second in _pairs(stream, lambda edit: edit.prompt):
        a, b = stream[first], stream[second]
        where = f"{stream.places[second]}: the prompt {_short(b.prompt)}"
        if a.target == b.target:
            problems.append(f"{where} -> {_short(b.target)} repeats {stream.places[first]}; remove one of them")
        else:
            problems.append(
                f"{where} -> {_short(b.target)} contradicts {stream.places[first]} -> {_short(a.target)}; "
                "remove one, or set conflicts to last_wins"
            )
    return problems


def text_problems(stream: EditStream) -> list[str]:
    """Prompts and targets that nobody can see, and texts that no file can hold."""
    pairs = zip(stream, stream.places, strict=True)
    return [f"{place}: {wrong}" for edit, place in pairs for wrong in unusable_texts(edit)]


def id_problems(stream: EditStream) -> list[str]:
    """Ids that come twice; edits that agree in prompt are reported by the prompt already."""
    return [
        f"{stream.places[second]}: the id '{stream[second].id}' is that of {stream.places[first]} too; ids are unique"
        for first, second in _pairs(stream, lambda edit: edit.id)
        if stream[first].prompt != stream[second].prompt
    ]


def length_problems(stream: EditStream, tokenizer: Any, max_tokens: int) -> list[str]:
    """Texts longer than the context: prompts with their target and its end, probes with their answer."""
    labels: list[tuple[int, str]] = []
    texts: list[str] = []
    for index, edit in enumerate(stream):
        parts = [("prompt and target", edit.prompt, edit.target)]
        parts += [(f"rephrases[{i}] and target", text, edit.target) for i, text in enumerate(edit.rephrases)]
        for name in ("locality", "portability"):
            parts += [(f"{name}[{i}]", probe.prompt, probe.answer) for i, probe in enumerate(getattr(edit, name))]
        for label, prompt, answer in parts:
            labels.append((index, label))
            texts.append(f"{prompt} {answer}" if answer else prompt)
    lengths = [len(ids) + 1 for ids in tokenizer(texts)["input_ids"]]  # one more for the token that ends the answer
    return [
        f"{stream.places[index]}: {label} are {length} tokens long, the model reads {max_tokens} at most; shorten it"
        for (index, label), length in zip(labels, lengths, strict=True)
        if length > max_tokens
    ]


def _short(text: str, width: int = 60) -> str:
    return f"'{text if len(text) <= width else '...' + text[-width:]}'"
