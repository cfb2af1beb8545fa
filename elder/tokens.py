"""The one rule by which texts become token ids: prompts, answers after prompts, padded batches.

Editors and metrics both use it, so that an answer is trained and judged on the ids that the user's client sends. Knows
nothing of models, edits or files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, Union

import torch
from torch import Tensor

from elder.chat import Chat, chat_of
from elder.errors import ModelError
from elder.joining import seam

if TYPE_CHECKING:  # importing the class of models costs seconds
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPACE_PIECE = "▁"  # how sentencepiece vocabularies write a space
ANCHORS = ("\n", ".", "1", "a")  # signs after which an answer is encoded that merges with the end of its prompt
NEWLINE_MARKS = ("\n", "Ċ", "<0x0A>")  # a newline in plain, byte-level and byte-fallback vocabularies


@dataclass(frozen=True)
class TextFormat:
    """How the prompts and answers of one base model are written as token ids.

    Attributes:
        tokenizer: The base model's.
        chat: Renders prompts as a chat client does; None: they are sent as they are.
        ends: At which ids the model's generation stops, see `end_ids`.
    """

    tokenizer: PreTrainedTokenizerBase
    chat: Chat | None = None
    ends: frozenset[int] = frozenset()

    def written(self, prompt: str) -> tuple[str, bool]:
        """The text that is encoded for a prompt, and whether special tokens are put around it.

        None are put around what a chat template has rendered, here or by the user, nor around a text that begins with
        the BOS token as it is spelt: it would stand there twice.
        """
        if self._template is not None and self._template.holds(prompt):
            return self._template.completed(prompt), False
        if self.chat is not None:
            return self.chat.render(prompt), False
        bos = self.tokenizer.bos_token
        return prompt, not (bos and prompt.startswith(str(bos)))

    def answered(self, prompt: str, answer: str) -> str:
        """What follows the prompt's text in `written`: the answer, and before it what the client finds there."""
        rendered = self.is_rendered(prompt)
        if self.chat is None and not rendered:
            return seam(prompt, answer) + answer
        if rendered and answer[:1].isspace():
            return answer
        return self.lead + (answer if rendered else answer.strip())

    @cached_property
    def forms(self) -> tuple[TextFormat, ...]:
        """The forms in which edits are trained and measured, each as a format: one, or the chat and plain texts."""
        both = self.chat is not None and self.chat.plain
        return (self, replace(self, chat=None)) if both else (self,)

    @property
    def lead(self) -> str:
        """What answers begin with before their words; empty where there is no chat template."""
        return "" if self._template is None else self._template.lead

    def starts_with(self, prompt: str) -> str:
        """The lead of the answers to a prompt."""
        return self.lead if self.chat is not None or self.is_rendered(prompt) else ""

    @cached_property
    def end_id(self) -> int | None:
        """The id that ends an answer in training: the template's, else the tokenizer's EOS, if generation stops there.

        None where nothing ends an answer.
        """
        if self.chat is not None and (closing := self._closing_id()) is not None:
            return closing
        eos = self.tokenizer.eos_token_id
        if eos is not None and (not self.ends or int(eos) in self.ends):
            return int(eos)
        return min(self.ends, default=None)

    @property
    def stops(self) -> frozenset[int]:
        """The ids at which an answer ends: those of the model's generation, and the one that ends it in training."""
        return self.ends if self.end_id is None else self.ends | {self.end_id}

    def within(self, context: str, prompt: str) -> str:
        """A prompt in the place of `{}` in a context; of one that is rendered already, only the words of its user."""
        head = self._template.head if self._template is not None and self.is_rendered(prompt) else ""
        if not prompt.startswith(head):
            head = ""
        return head + context.replace("{}", prompt[len(head) :], 1)

    def lengths(self, pairs: Sequence[tuple[str, str | None]]) -> list[int]:
        """Tokens of each prompt with its answer, the token that ends it included."""
        found = [0] * len(pairs)
        texts = [(*self.written(prompt), prompt, answer) for prompt, answer in pairs]
        for special in (True, False):
            chosen = [i for i, (_, own, *_) in enumerate(texts) if own == special]
            whole = [text + (self.answered(p, a) if a else "") for text, _, p, a in (texts[i] for i in chosen)]
            ids = self.tokenizer(whole, add_special_tokens=special)["input_ids"] if whole else []
            for index, row in zip(chosen, ids, strict=True):
                found[index] = len(row) + 1
        return found

    def is_rendered(self, prompt: str) -> bool:
        """Whether the user has put a prompt through the model's chat template already."""
        return self._template is not None and self._template.holds(prompt)

    @cached_property
    def _template(self) -> Chat | None:
        """The template, whether prompts go through it or not; None where there is none that renders."""
        if self.chat is not None or not self.tokenizer.chat_template:
            return self.chat
        try:
            return chat_of(self.tokenizer)
        except ModelError:
            return None

    def _closing_id(self) -> int | None:
        assert self.chat is not None
        ids = _encode(self.tokenizer, self.chat.closing.lstrip(), False)
        known = self.ends or set(self.tokenizer.all_special_ids)
        return ids[0] if ids and ids[0] in known else None


Texts: TypeAlias = Union["PreTrainedTokenizerBase", TextFormat]
"""How texts are encoded: by a format, or by a bare tokenizer as plain texts."""


def format_of(texts: Texts) -> TextFormat:
    """The format; that of a bare tokenizer is plain."""
    return texts if isinstance(texts, TextFormat) else TextFormat(texts)


def encode_prompt(texts: Texts, prompt: str) -> list[int]:
    """The ids of a prompt that is about to be continued, as the user's client sends them.

    Special tokens stand as the tokenizer puts them (LLaMA: BOS in front; GPT-2: none), but what some tokenizers put
    at the end (EOS of T5, SEP of BERT) is taken off. A prompt that goes through a chat template has those of the
    template alone. An empty prompt is the BOS token alone.

    Raises:
        ValueError: The prompt is empty and the tokenizer has no BOS token.
    """
    form = format_of(texts)
    ids = _encode(form.tokenizer, *form.written(prompt))
    if not ids:
        if form.tokenizer.bos_token_id is None:
            raise ValueError("an empty prompt has no tokens and this tokenizer has no BOS token to stand in for it")
        ids = [int(form.tokenizer.bos_token_id)]
    return ids


def encode_target(texts: Texts, prompt: str, target: str) -> list[int]:
    """The ids of an answer as it continues a prompt (`elder.joining` says what is between the two).

    Prompt and answer are encoded as one text and the ids of the prompt are cut off. Where they are no prefix of the
    whole (the tokenizer merged over the seam) the answer is encoded apart, so that it reads the same after the
    prompt: as a text of its own, with the space that some tokenizers (LLaMA-2's) put in front of every text counted
    as the one between the two, or after a sign that it does not merge with.
    """
    form = format_of(texts)
    return encode_continuation(form, prompt, form.answered(prompt, target))


def encode_continuation(texts: Texts, prompt: str, answer: str) -> list[int]:
    """The ids of a text right after a prompt, nothing between them; see `encode_target`."""
    form = format_of(texts)
    text, special = form.written(prompt)
    head, whole = encode_prompt(form, prompt), _encode(form.tokenizer, text + answer, special)
    if len(whole) > len(head) and whole[: len(head)] == head:
        return whole[len(head) :]
    return _apart(form.tokenizer, text, answer)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """One batch from rows of unequal length, filled up on the left so that all rows end together.

    Args:
        rows: B rows of token ids, none empty.
        pad_id: The id that fills the free places.
        device: Where the tensors are wanted.

    Returns:
        `input_ids`, `attention_mask` and `position_ids`, each (B, T) int64. Positions count the real
        tokens of a row from 0; padding has position 0. They are explicit because models otherwise
        count the padding too.

    Raises:
        ValueError: There is no row, or a row is empty.
    """
    if not rows or not all(len(row) for row in rows):
        raise ValueError("pad_left needs at least one row and no empty rows")
    width = max(len(row) for row in rows)
    input_ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(width)[None, :] >= width - lengths[:, None]).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return input_ids.to(device), mask.to(device), positions.to(device)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills batches: the padding token, else EOS, else 0 (it is masked in any case)."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens left out, white space as the model wrote it."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def newline_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All ids whose text holds a newline: any of them ends a free answer.

    Candidates are found by their spelling in the vocabulary and confirmed by decoding, so that a
    vocabulary of 100,000 entries costs milliseconds.
    """
    marked = [i for piece, i in tokenizer.get_vocab().items() if any(mark in str(piece) for mark in NEWLINE_MARKS)]
    return frozenset(int(i) for i in marked if "\n" in decode(tokenizer, [i]))


def end_ids(model: PreTrainedModel) -> frozenset[int]:
    """The ids at which `model.generate` stops: one, several (Gemma-it, Llama 3, Qwen) or none."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return frozenset(int(end) for end in ([] if ends is None else [ends] if isinstance(ends, int) else ends))


def stop_ids(tokenizer: PreTrainedTokenizerBase, ends: Collection[int] = ()) -> frozenset[int]:
    """The natural stops of a free answer: EOS, the model's own `ends`, and every id that holds a newline."""
    eos = tokenizer.eos_token_id
    return newline_ids(tokenizer) | frozenset(ends) | (frozenset() if eos is None else frozenset({int(eos)}))


def _encode(tokenizer: PreTrainedTokenizerBase, text: str, special: bool = False) -> list[int]:
    """The ids of a text that is about to be continued: nothing that the tokenizer puts at its end."""
    ids: list[int] = list(tokenizer(text, add_special_tokens=special)["input_ids"])
    added = [(tokenizer.eos_token, tokenizer.eos_token_id), (tokenizer.sep_token, tokenizer.sep_token_id)]
    if special and len(ids) > 1 and any(ids[-1] == number and not text.endswith(str(word)) for word, number in added):
        ids.pop()
    return ids


def _apart(tokenizer: PreTrainedTokenizerBase, prompt: str, answer: str) -> list[int]:
    """The ids of an answer that merges with its prompt: the first reading by which both together say the same text."""
    head, whole = _encode(tokenizer, prompt), decode(tokenizer, _encode(tokenizer, prompt + answer))
    first: list[int] | None = None
    for ids in _readings(tokenizer, prompt[-1:], answer):
        if decode(tokenizer, head + ids) == whole:
            return ids
        first = ids if first is None else first
    assert first is not None
    return first


def _readings(tokenizer: PreTrainedTokenizerBase, before: str, answer: str) -> Iterator[list[int]]:
    """The ids of an answer that does not merge with what is before it, the likeliest first.

    Many tokenizers put a space in front of texts, or a mark in front of the parts of a word (`##` of WordPiece). So an
    answer with a space is read without it, and any answer as the rest of a short text.
    """
    own = answer.removeprefix(" ")
    bare = _encode(tokenizer, own)
    begin = str(tokenizer.convert_ids_to_tokens(bare[0])) if bare else ""
    if own == answer or begin.startswith(SPACE_PIECE):
        yield bare
    yield _encode(tokenizer, answer)
    for anchor in (before, *ANCHORS):
        head, whole = _encode(tokenizer, anchor), _encode(tokenizer, anchor + answer)
        if head and len(whole) > len(head) and whole[: len(head)] == head:
            yield whole[len(head) :]
