"""Puts prompts to an edited model and to the unedited one behind it.

Each distinct prompt is run once; the base's answers are remembered, since edits do not change them. Knows
nothing of what the answers are judged against.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from elder.base import Editor
from elder.metrics.base_answers import BaseAnswers, SharedAnswers
from elder.metrics.batching import ProgressMeter, run_batched
from elder.metrics.generation import Continuation, Decoder, generate
from elder.metrics.scoring import Pair, TokenScores, score
from elder.tokens import TextFormat, encode_prompt, encode_target, pad_id, pad_left


class Ask(NamedTuple):
    """A prompt, the most tokens its answer may have, and the answer whose lines are given room (empty: one line)."""

    prompt: str
    limit: int
    answer: str = ""


SLACK = 3  # tokens beyond the target that a right answer may need before its natural stop: full stop, space, EOS


class Prober:
    """Model calls on behalf of an evaluator.

    All calls are collective: every rank makes them with the same arguments and gets the same results.

    Args:
        editor: Whose model is asked.
        max_new_tokens: Most tokens of a free answer, unless its target is longer.
        batch_size: Most prompts in one forward.
        texts: How prompts and answers are written as ids; default: as the base says.
    """

    def __init__(self, editor: Editor, max_new_tokens: int, batch_size: int, texts: TextFormat | None = None) -> None:
        self.editor, self.texts = editor, texts or editor.base.texts
        self.max_new_tokens = max_new_tokens
        self.batch_size = batch_size
        self.tokenizer = editor.base.tokenizer
        self.runtime = editor.base.runtime
        context = getattr(editor.base.model.config, "max_position_embeddings", None)
        self.context: int | None = None if context is None else int(context)
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._targets: dict[tuple[str, str], tuple[int, ...]] = {}
        self._stop = Decoder.to_stop(self.texts, max_new_tokens, batch_size, self.context)
        self.said = BaseAnswers()

    def share(self, answers: SharedAnswers) -> None:
        """Look for the base's answers, and leave them, where other probers of the same base do."""
        form = (self.max_new_tokens, self.batch_size, self.texts.chat is None)
        self.said = answers.setdefault(form, self.said)

    def prompt_ids(self, prompt: str) -> tuple[int, ...]:
        """The ids of a prompt."""
        if prompt not in self._prompts:
            self._prompts[prompt] = tuple(encode_prompt(self.texts, prompt))
        return self._prompts[prompt]

    def pair(self, prompt: str, answer: str) -> Pair:
        """A prompt with an answer behind it, as ids."""
        key = (prompt, answer)
        if key not in self._targets:
            self._targets[key] = tuple(encode_target(self.texts, prompt, answer))
        return Pair(self.prompt_ids(prompt), self._targets[key])

    def ask(self, prompt: str, answer: str) -> Ask:
        """A prompt with room for its answer: its lines, and `max_new_tokens` or the next multiple that holds it."""
        needed = len(self.pair(prompt, answer).target) + SLACK
        limit = self.max_new_tokens * max(1, -(-needed // self.max_new_tokens))
        return Ask(prompt, limit, answer if "\n" in answer else "")

    def too_long(self, pair: Pair) -> bool:
        """Whether a prompt with its answer does not fit into the context of the model."""
        return self.context is not None and len(pair) > self.context

    def answers(self, asks: Iterable[Ask], meter: ProgressMeter | None = None) -> dict[Ask, Continuation]:
        """Free answers of the edited model, up to the natural stop."""
        return self._free(dict.fromkeys(asks), meter)

    def _free(self, asks: Iterable[Ask], meter: ProgressMeter | None) -> dict[Ask, Continuation]:
        """Free answers of the model as it is."""
        alike: dict[tuple[int, int, str], list[Ask]] = {}
        for ask in asks:
            key = (ask.limit, ask.answer.count("\n"), self.texts.starts_with(ask.prompt))
            alike.setdefault(key, []).append(ask)
        found: dict[Ask, Continuation] = {}
        for (limit, _, lead), some in sorted(alike.items()):
            stop = self._stop.for_answer(some[0].answer, lead, limit)
            found.update(zip(some, self._generate([ask.prompt for ask in some], stop, meter), strict=True))
        return found

    def long_texts(
        self, prompts: Iterable[str], tokens: int, meter: ProgressMeter | None = None
    ) -> dict[str, Continuation]:
        """Continuations of the edited model of exactly so many tokens, EOS suppressed."""
        unique = list(dict.fromkeys(prompts))
        return dict(zip(unique, self._generate(unique, self._through(tokens), meter), strict=True))

    def base_long_texts(self, rows: Iterable[tuple[int, ...]], tokens: int) -> dict[tuple[int, ...], tuple[int, ...]]:
        """Ids that the unedited model continues rows of ids with, EOS suppressed; each row is run once."""
        wanted = list(dict.fromkeys(rows))
        missing = [row for row in wanted if row not in self.said.long]
        if missing:
            with self.editor.disabled():
                found = generate(self.editor.model, missing, self._through(tokens), self.runtime)
            self.said.long.update({row: said.ids for row, said in zip(missing, found, strict=True)})
        return {row: self.said.long[row] for row in wanted}

    def _through(self, tokens: int) -> Decoder:
        return Decoder(self.tokenizer, frozenset(), tokens, self.batch_size, self.context, through=True)

    def stopped(self, ask: Ask, ids: Sequence[int]) -> int | None:
        """How many ids of a long continuation a free answer has, its natural stop included; None: it has no end."""
        decoder = self._stop.for_answer(ask.answer, self.texts.starts_with(ask.prompt), ask.limit)
        said = decoder.cut(ids)
        return len(said.ids) if said.finished else None

    def unknown_to_base(self, prompts: Iterable[str]) -> list[str]:
        """The distinct prompts that the base has not answered yet."""
        return [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.said.continuations]

    def base_answers(self, prompts: Iterable[str], meter: ProgressMeter | None = None) -> dict[str, Continuation]:
        """Free answers of the unedited model; each prompt is run once, see `share`."""
        wanted = list(dict.fromkeys(prompts))
        missing = self.unknown_to_base(wanted)
        if missing:
            with self.editor.disabled():
                found = self._free([Ask(prompt, self.max_new_tokens) for prompt in missing], meter)
            self.said.continuations.update({ask.prompt: said for ask, said in found.items()})
        return {prompt: self.said.continuations[prompt] for prompt in wanted}

    def scores(self, pairs: Iterable[Pair], meter: ProgressMeter | None = None) -> dict[Pair, TokenScores]:
        """Teacher-forced scores under the edited model, routed at the last prompt tokens."""
        unique = list(dict.fromkeys(pairs))
        pad = pad_id(self.tokenizer)
        found = score(self.editor.model, unique, self.batch_size, self.runtime, pad, self.editor.routed_at, meter)
        return dict(zip(unique, found, strict=True))

    def base_scores(self, pairs: Iterable[Pair], meter: ProgressMeter | None = None) -> dict[Pair, TokenScores]:
        """Teacher-forced scores under the unedited model; each pair is run once, see `share`."""
        wanted = list(dict.fromkeys(pairs))
        missing = [pair for pair in wanted if pair not in self.said.scores]
        if missing:
            with self.editor.disabled():
                found = score(
                    self.editor.model, missing, self.batch_size, self.runtime, pad_id(self.tokenizer), None, meter
                )
            self.said.scores.update(zip(missing, found, strict=True))
        return {pair: self.said.scores[pair] for pair in wanted}

    def scopes(self, prompts: Iterable[str], meter: ProgressMeter | None = None) -> dict[str, bool] | None:
        """Which prompts the edits are active for; None for methods without deferral."""
        unique = list(dict.fromkeys(prompts))

        def run(batch: list[str]) -> Sequence[bool | None]:
            ids, mask, _ = pad_left([self.prompt_ids(p) for p in batch], pad_id(self.tokenizer), self.runtime.device)
            with torch.no_grad():
                scope: Tensor | None = self.editor.in_scope(ids, mask)
            return [None] * len(batch) if scope is None else [bool(inside) for inside in scope.tolist()]

        found = run_batched(unique, lambda p: len(self.prompt_ids(p)), self.batch_size, self.runtime, run, meter)
        known = {prompt: inside for prompt, inside in zip(unique, found, strict=True) if inside is not None}
        return known if len(known) == len(unique) else None

    def _generate(self, prompts: Sequence[str], decoder: Decoder, meter: ProgressMeter | None) -> list[Continuation]:
        ids = [self.prompt_ids(prompt) for prompt in prompts]
        return generate(self.editor.model, ids, decoder, self.runtime, meter)
