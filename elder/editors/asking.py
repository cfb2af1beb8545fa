"""What every editor offers to people: ask it, ask the model without its edits, read what it is."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, overload

import torch
from torch import Tensor
from transformers import PreTrainedModel

from elder.base import Base
from elder.metrics.generation import Decoder
from elder.mixture.cached import record_of
from elder.mixture.edits import MixtureEdits
from elder.mixture.route import Routes
from elder.tokens import encode_prompt, pad_id, pad_left

MAX_NEW_TOKENS = 32


@dataclass(frozen=True)
class Answer:
    """What an edited model said.

    Attributes:
        text: The answer up to the end of the sequence or of the line, without white space around it.
        edited: Whether the edits were active; None for methods whose edits act on every input.
        edit: Id of the edit that answered; None where none did, or where the method knows no edit by name.
        score: How well the prompt matches that edit, the weaker of its similarities to subject and question, at most 1;
            None where there is no such figure.
        finished: Whether the answer ended by itself, and not because it grew too long.
    """

    text: str
    edited: bool | None
    edit: str | None
    score: float | None
    finished: bool

    def __str__(self) -> str:
        return self.text


class Asking:
    """Mixed into editors."""

    method: str
    base: Base
    model: PreTrainedModel
    edits: Any

    @overload
    def ask(self, prompt: str, max_new_tokens: int = ..., lines: int = ...) -> Answer: ...  # type: ignore[overload-overlap]

    @overload
    def ask(self, prompt: Sequence[str], max_new_tokens: int = ..., lines: int = ...) -> list[Answer]: ...

    def ask(
        self, prompt: str | Sequence[str], max_new_tokens: int = MAX_NEW_TOKENS, lines: int = 1
    ) -> Answer | list[Answer]:
        """Answer a prompt greedily, or several in one batch, with the edit that answered.

        A prompt goes through the chat template if those of the edits did.

        Safe to call from several threads. Under sharding it is collective.

        Args:
            prompt: A text, or texts.
            max_new_tokens: Longest answer, in tokens.
            lines: Lines of an answer; it ends with the last of them, if not before.

        Raises:
            ValueError: A prompt without any token.
        """
        texts = [prompt] if isinstance(prompt, str) else list(prompt)
        answers = self._answers(texts, max_new_tokens, lines) if texts else []
        return answers[0] if isinstance(prompt, str) else answers

    def without_edits(self) -> AbstractContextManager[None]:
        """The model and `ask` answer without the edits inside the block, in this thread or task alone."""
        found: AbstractContextManager[None] = self.edits.disabled()
        return found

    def __repr__(self) -> str:
        kind, dtype = type(self.base.model).__name__, str(self.base.model.dtype).removeprefix("torch.")
        count = self.edits.count
        return f"<{self.method}: {count} edit{'' if count == 1 else 's'} on {self.base.source} ({kind}, {dtype})>"

    def _answers(self, texts: Sequence[str], limit: int, lines: int) -> list[Answer]:
        base, tokenizer = self.base, self.base.tokenizer
        context = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
        decoder = Decoder.to_stop(base.texts, limit, len(texts), context)
        decoder = decoder.for_answer("\n" * (lines - 1), decoder.lead)
        ids, mask, positions = pad_left(
            [encode_prompt(base.texts, text) for text in texts], pad_id(tokenizer), base.runtime.device
        )
        room = limit if context is None else min(limit, int(context) - ids.shape[1])
        config = decoder.config(room)
        config.return_dict_in_generate = True
        inputs: dict[str, Tensor] = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
        with torch.no_grad():
            output: Any = base.runtime.generate(
                self.model, **inputs, generation_config=config, **decoder.criteria(ids.shape[1])
            )
        said = [decoder.cut(row) for row in output.sequences[:, ids.shape[1] :].tolist()]
        found = [self._matched(output, row) for row in range(len(texts))]
        return [Answer(one.text, *match, one.finished) for one, match in zip(said, found, strict=True)]

    def _matched(self, output: Any, row: int) -> tuple[bool | None, str | None, float | None]:
        """Whether edits were active for a row of a generation, which, and how well it matched."""
        if not isinstance(self.edits, MixtureEdits):
            return None, None, None
        record = record_of(getattr(output, "past_key_values", None), self.edits.identity)
        if record is None:  # nothing was routed: the edits were switched off
            return False, None, None
        return described(record.routes, row, self.edits.version.ids)


def described(routes: Routes, row: int, ids: Sequence[str]) -> tuple[bool, str | None, float | None]:
    """Whether a row is in scope, the id of its edit, and its score, as far as a method knows them."""
    if not bool(routes.inside[row]):
        return False, None, None
    owner, score = int(routes.owner[row]), min(1.0, float(routes.score[row].min()))
    known = 0 <= owner < len(ids)
    return True, ids[owner] if known else None, score if known and score == score else None
