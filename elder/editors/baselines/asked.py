"""What a user asked, from the ids of a prompt: the words without a chat template around them.

Knows how texts are encoded, nothing of edits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from elder.tokens import TextFormat, decode, encode_prompt

MARK, OTHER = "zq", "71"  # two texts whose encodings share what is put around every prompt, and nothing else


@dataclass(frozen=True)
class Asked:
    """One prompt: the user's words, and the form in which they were sent."""

    words: str
    form: TextFormat


class AskedReader:
    """Reads prompts of one base model.

    Args:
        texts: How its texts are written.
    """

    def __init__(self, texts: TextFormat) -> None:
        self._plain = replace(texts, chat=None)
        self._chat = texts if texts.chat is not None else None
        self._around = ("", "")
        if self._chat is not None:
            head, _, tail = decode(texts.tokenizer, encode_prompt(self._chat, MARK)).partition(MARK)
            self._around = head, tail
        self._heads = [_shared(encode_prompt(f, MARK), encode_prompt(f, OTHER)) for f in (self._chat, self._plain) if f]

    def read(self, ids: Sequence[int]) -> Asked:
        """The words of a prompt of these ids, without padding."""
        text = decode(self._plain.tokenizer, ids)
        head, tail = self._around
        if self._chat is not None and text.startswith(head) and text.endswith(tail):
            return Asked(text[len(head) : len(text) - len(tail)], self._chat)
        return Asked(text, self._plain)

    def words_begin(self, ids: Sequence[int]) -> int:
        """Where the user's words begin: after the head of the template, or the token that begins a text."""
        return next((len(head) for head in self._heads if list(ids[: len(head)]) == head), 0)


def _shared(one: Sequence[int], other: Sequence[int]) -> list[int]:
    """The common beginning of two rows, which must leave something of both."""
    shortest = min(len(one), len(other)) - 1
    size = next((i for i in range(shortest) if one[i] != other[i]), shortest)
    return list(one[:size])
