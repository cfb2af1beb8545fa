"""A stream of edits as a whole: the order, the places, and the checks that need more than one edit.

Knows nothing of files or layouts; a place is a text that someone else gave.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from elder.datasets.reading import Reading
from elder.datasets.records import capped
from elder.edit import Edit, unusable_texts
from elder.errors import DataError
from elder.joining import join

POLICIES = ("refuse", "last_wins")
UNUSABLE = ("refuse", "skip")


class EditStream(list[Edit]):
    """A list of edits that remembers where each one came from.

    An ordinary list to everybody else; slices and copies are plain lists, without places.

    Attributes:
        places: For every edit a text such as `edits.jsonl:17`.
        reading: What was read of the source and what was left out, if the edits come from one.
        skipped: The records that were left out because they cannot be edited: the place of each, and why.
    """

    def __init__(
        self,
        edits: Iterable[Edit],
        places: Sequence[str] | None = None,
        reading: Reading | None = None,
        skipped: Sequence[str] = (),
    ) -> None:
        super().__init__(edits)
        self.reading = reading
        self.skipped = tuple(skipped)
        self.places: tuple[str, ...] = tuple(places) if places is not None else _numbers(len(self))
        if len(self.places) != len(self):
            raise ValueError(f"{len(self)} edits but {len(self.places)} places")

    def take(self, indices: Iterable[int]) -> EditStream:
        """The edits at the given indices, in that order, with their places."""
        chosen = list(indices)
        return EditStream([self[i] for i in chosen], [self.places[i] for i in chosen], self.reading, self.skipped)

    def without(self, wrong: Mapping[int, str]) -> EditStream:
        """The stream without some edits, index -> why; each is listed with its place.

        Raises:
            DataError: Nothing would be left.
        """
        listed = [f"{self.places[index]}: {why}" for index, why in sorted(wrong.items())]
        if listed and len(wrong) == len(self):
            raise none_left(len(self), listed)
        left = self.take(index for index in range(len(self)) if index not in wrong)
        left.skipped = (*self.skipped, *listed)
        return left


def validate_stream(
    edits: Sequence[Edit],
    conflicts: str = "refuse",
    tokenizer: Any = None,
    max_tokens: int | None = None,
    unusable: str = "refuse",
) -> EditStream:
    """Check a stream as a whole before anything expensive starts.

    Args:
        edits: The stream; an `EditStream` lets problems name file and line, else they name the number.
        conflicts: What to do with two edits of the same prompt. `refuse`: a problem. `last_wins`: only
            the last one stays, where it stands.
        tokenizer: Called with a list of texts, gives `input_ids`; or an `elder.tokens.TextFormat`, which knows a chat
            template. With `max_tokens`, lengths are checked.
        max_tokens: The context of the model, in tokens.
        unusable: What to do with an edit whose texts are too long, cannot be seen or cannot be written. `refuse`: a
            problem. `skip`: it is left out.

    Returns:
        The stream to apply.

    Raises:
        DataError: With all problems: an empty stream, a prompt that comes twice, an id that comes twice,
            a text that cannot be seen or written, a text longer than the context.
    """
    check_choices(conflicts, unusable)
    stream = as_stream(edits)
    if not stream:
        raise DataError("there are no edits: the stream is empty")
    problems: list[str] = []
    if conflicts == "refuse":
        problems += prompt_problems(stream)
    else:
        last = {edit.prompt: index for index, edit in enumerate(stream)}
        stream = stream.take(index for index, edit in enumerate(stream) if last[edit.prompt] == index)
    long = length_problems(stream, tokenizer, max_tokens) if tokenizer is not None and max_tokens is not None else []
    unseen = text_problems(stream)
    if unusable == "refuse":
        problems += in_words(stream, unseen)
    problems += id_problems(stream)
    if unusable == "refuse":
        problems += in_words(stream, long)
    if problems:
        raise DataError(capped(problems))
    return stream.without(first_problems([*unseen, *long])) if unusable == "skip" else stream


def check_choices(conflicts: str, unusable: str) -> None:
    """Refuse a word that is not known.

    Raises:
        DataError: There is no such choice.
    """
    for name, given, known in (("conflicts", conflicts, POLICIES), ("unusable", unusable, UNUSABLE)):
        if given not in known:
            raise DataError(f"{name} must be one of {', '.join(known)}, found '{given}'")


def as_stream(edits: Sequence[Edit]) -> EditStream:
    """Edits as a stream, with the places that they know."""
    if not isinstance(edits, EditStream):
        return EditStream(edits)
    return EditStream(edits, edits.places if len(edits.places) == len(edits) else None, edits.reading, edits.skipped)


def in_words(stream: EditStream, problems: Iterable[tuple[int, str]]) -> list[str]:
    """Problems of edits, (index, why), with the places of these."""
    return [f"{stream.places[index]}: {why}" for index, why in problems]


def first_problems(problems: Iterable[tuple[int, str]]) -> dict[int, str]:
    """For each edit that has a problem the first of them."""
    found: dict[int, str] = {}
    for index, why in problems:
        found.setdefault(index, why)
    return found


def none_left(count: int, listed: Sequence[str]) -> DataError:
    """The error about a stream of which no edit can be used."""
    return DataError(capped([f"none of the {count} edits can be used", *listed]))


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


def text_problems(stream: EditStream) -> list[tuple[int, str]]:
    """Prompts and targets that nobody can see, and texts that no file can hold, with the index of their edit."""
    return [(index, wrong) for index, edit in enumerate(stream) for wrong in unusable_texts(edit)]


def id_problems(stream: EditStream) -> list[str]:
    """Ids that come twice; edits that agree in prompt are reported by the prompt already."""
    return [
        f"{stream.places[second]}: the id '{stream[second].id}' is that of {stream.places[first]} too; ids are unique"
        for first, second in _pairs(stream, lambda edit: edit.id)
        if stream[first].prompt != stream[second].prompt
    ]


def length_problems(stream: EditStream, tokenizer: Any, max_tokens: int) -> list[tuple[int, str]]:
    """Texts longer than the context, with the index of their edit: prompts and probes with their answer and its end."""
    labels: list[tuple[int, str]] = []
    pairs: list[tuple[str, str | None]] = []
    for index, edit in enumerate(stream):
        parts: list[tuple[str, str, str | None]] = [("prompt and target", edit.prompt, edit.target)]
        parts += [(f"rephrases[{i}] and target", text, edit.target) for i, text in enumerate(edit.rephrases)]
        parts += [(name, probe.prompt, probe.answer) for name, probe in edit.all_probes]
        for label, prompt, answer in parts:
            labels.append((index, label))
            pairs.append((prompt, answer))
    return [
        (index, f"{label} are {length} tokens long, the model reads {max_tokens} at most; shorten it")
        for (index, label), length in zip(labels, _lengths(pairs, tokenizer), strict=True)
        if length > max_tokens
    ]


def _lengths(pairs: Sequence[tuple[str, str | None]], tokenizer: Any) -> list[int]:
    """Tokens of each prompt with its answer, one more for the token that ends it."""
    if hasattr(tokenizer, "lengths"):
        found: list[int] = tokenizer.lengths(pairs)
        return found
    texts = [join(prompt, answer) if answer else prompt for prompt, answer in pairs]
    return [len(ids) + 1 for ids in tokenizer(texts)["input_ids"]]


def _short(text: str, width: int = 60) -> str:
    return f"'{text if len(text) <= width else '...' + text[-width:]}'"
