"""Likelihoods and greedy completions of plain texts, as evaluations that others wrote ask for them.

The end of the prompt is told to the model with every request, so that edits count in likelihoods as they do in answers.
Knows nothing of the libraries that ask.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria, StoppingCriteriaList

from elder.base import Base, Editor
from elder.errors import ConfigError, DataError
from elder.metrics.batching import run_batched
from elder.metrics.generation import Decoder
from elder.metrics.scoring import Pair, score
from elder.tokens import decode, encode_continuation, encode_prompt, end_ids, pad_id, pad_left

LENGTH = 2048  # context of a model whose config does not tell
SLACK = 4  # tokens looked at beyond a stop string: a character may be cut at the edge

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Ask:
    """A prompt to be continued until one of some texts, for `limit` tokens at most."""

    prompt: str
    until: tuple[str, ...]
    limit: int


class Completer:
    """Scores and continues texts with an edited model, or with a base.

    All calls are collective: every rank makes them with the same arguments and gets the same results.

    Args:
        subject: An editor, whose edits are active, or a base model.
        batch_size: Most rows of one forward.
        context: Most tokens of a row; default: what the model's config says.

    Raises:
        ConfigError: An impossible number, or a tokenizer with neither BOS nor EOS token.
    """

    def __init__(self, subject: Editor | Base, batch_size: int, context: int | None = None) -> None:
        self.base = subject if isinstance(subject, Base) else subject.base
        self.model = subject.model
        self.routed_at = None if isinstance(subject, Base) else subject.routed_at
        self.texts = replace(self.base.texts, chat=None)  # who asks has put the chat template around already
        self.tokenizer, self.runtime, self.batch_size = self.base.tokenizer, self.base.runtime, batch_size
        known = getattr(self.base.model.config, "max_position_embeddings", None)
        self.context = int(context or known or LENGTH)
        if batch_size < 1 or self.context < 2:
            raise ConfigError(f"batch_size {batch_size} and context {self.context}: expected at least 1 and 2")
        ends = (self.tokenizer.bos_token_id, self.tokenizer.eos_token_id)
        if ends == (None, None):
            raise ConfigError("the tokenizer has neither a BOS nor an EOS token to stand for an empty prompt")
        self.prefix = int(ends[1] if ends[0] is None else ends[0])

    def encode(self, text: str, special: bool | None = None) -> list[int]:
        """Ids of a text as a prompt begins; `special` overrides whether special tokens are put around it.

        A text that spells its BOS token already, as chat templates do, gets no second one.
        """
        bos = self.tokenizer.bos_token
        if special is None and bos and text.startswith(str(bos)):
            special = False
        if special is None and text:
            return encode_prompt(self.texts, text)
        return list(self.tokenizer(text, add_special_tokens=special is not False)["input_ids"])

    def pair(self, prompt: str, continuation: str) -> Pair:
        """Prompt and continuation as ids; white space at the end of the prompt belongs to the continuation.

        Both are encoded as one text. Where the tokenizer merged over the seam, the continuation is encoded by the rule
        that edits are trained by (`elder.tokens.encode_continuation`). A prompt that a chat template has rendered stays
        whole.

        Raises:
            DataError: The continuation has no tokens.
        """
        head_text = prompt if self.texts.is_rendered(prompt) else prompt.rstrip()
        continuation = prompt[len(head_text) :] + continuation
        if head_text:
            head, tail = self.encode(head_text), encode_continuation(self.texts, head_text, continuation)
        else:
            head, tail = [self.prefix], self.encode(continuation, special=False)
            if tail[:1] == head:
                tail = tail[1:]
        if not tail:
            raise DataError(f"nothing to score: the continuation {continuation!r} of {prompt[-40:]!r} has no tokens")
        return Pair(tuple(head), tuple(tail))

    def likelihoods(self, pairs: Sequence[Pair]) -> list[tuple[float, bool]]:
        """For each pair the log-likelihood of the whole continuation, in nats, and whether it is the greedy one.

        The row is routed by the last token of its prompt. Prompts that do not fit are cut on the left.

        Raises:
            DataError: A continuation does not fit into the context with one token before it.
        """
        fitted = [self._fitted(pair) for pair in pairs]
        self._tell(sum(short is not pair for short, pair in zip(fitted, pairs, strict=True)))
        unique = list(dict.fromkeys(fitted))
        pad = pad_id(self.tokenizer)
        scores = score(self.model, unique, self.batch_size, self.runtime, pad, self.routed_at)
        found = {p: (-sum(s.nlls), s.argmax == p.target) for p, s in zip(unique, scores, strict=True)}
        return [found[pair] for pair in fitted]

    def whole(self, texts: Sequence[str]) -> list[float]:
        """For each text the log-likelihood of all its tokens, in nats, as a continuation of the empty prompt.

        A longer text than the context is read in windows; each token is scored once, behind as much as fits. A BOS
        token that the tokenizer puts in front is scored too, as the library of these evaluations does with its models.
        """
        cut = [self.windows(self.encode(text)) for text in texts]
        found = iter(self.likelihoods([pair for windows in cut for pair in windows]))
        return [sum(next(found)[0] for _ in windows) for windows in cut]

    def windows(self, ids: Sequence[int]) -> list[Pair]:
        """The windows of a text: what is read before, and what is scored; `context` tokens together at most."""
        room = self.context - 1
        pairs = [Pair((self.prefix,), tuple(ids[:room]))] if ids else []
        for done in range(room, len(ids), room):
            end = min(done + room, len(ids))
            pairs.append(Pair(tuple(ids[end - self.context : done]), tuple(ids[done:end])))
        return pairs

    def complete(self, asks: Sequence[Ask]) -> list[str]:
        """What the model says after each prompt, white space as it wrote it, up to a stop text or its own end.

        Raises:
            ConfigError: A limit that leaves no room for a prompt.
        """
        for ask in asks:
            if not 0 < ask.limit < self.context:
                raise ConfigError(
                    f"at most {ask.limit} new tokens: expected 1 to {self.context - 1}, so that a prompt fits into the "
                    f"context of {self.context} tokens as well"
                )
        groups: dict[tuple[tuple[str, ...], int], list[str]] = {}
        for ask in dict.fromkeys(asks):
            groups.setdefault((ask.until, ask.limit), []).append(ask.prompt)
        found: dict[Ask, str] = {}
        for (until, limit), prompts in groups.items():
            said = self._complete(prompts, until, limit)
            found.update({Ask(prompt, until, limit): text for prompt, text in zip(prompts, said, strict=True)})
        return [found[ask] for ask in asks]

    # ---- parts --------------------------------------------------------------------------------------------------

    def _fitted(self, pair: Pair) -> Pair:
        if len(pair) <= self.context:
            return pair
        room = self.context - len(pair.target)
        if room < 1:
            text = decode(self.tokenizer, pair.target[:20])
            raise DataError(
                f"the continuation {text!r}... has {len(pair.target)} tokens; expected at most {self.context - 1}, "
                f"since the context holds {self.context} and one must come before"
            )
        return Pair(pair.prompt[-room:], pair.target)

    def _tell(self, cut: int) -> None:
        if cut and self.runtime.rank == 0:
            logger.warning("%d prompts were cut on the left to fit into the context of %d tokens", cut, self.context)

    def _complete(self, prompts: Sequence[str], until: tuple[str, ...], limit: int) -> list[str]:
        rows = [self.encode(prompt) or [self.prefix] for prompt in prompts]
        room = self.context - limit
        self._tell(sum(len(row) > room for row in rows))
        stops = self._stop_ids(until)
        decoder = Decoder(self.tokenizer, stops, limit, self.batch_size, self.context)

        def run(batch: list[list[int]]) -> list[str]:
            ids, mask, positions = pad_left(batch, pad_id(self.tokenizer), self.runtime.device)
            width = ids.shape[1]
            with torch.no_grad():
                output = self.runtime.generate(
                    self.model,
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    generation_config=decoder.config(limit),
                    stopping_criteria=StoppingCriteriaList([Spelled(self.tokenizer, until, width)]),
                )
            return [self._text(row, stops, until) for row in output[:, width:].tolist()]

        return run_batched([row[-room:] for row in rows], len, self.batch_size, self.runtime, run)

    def _stop_ids(self, until: Sequence[str]) -> frozenset[int]:
        """The model's own ends, and the stop texts that are tokens of their own and spelt by no others."""
        eos, added = self.tokenizer.eos_token_id, self.tokenizer.get_added_vocab()
        own = end_ids(self.base.model) | ({int(eos)} if eos is not None else set())
        return frozenset(own | {int(added[text]) for text in until if text in added})

    def _text(self, ids: Sequence[int], stops: frozenset[int], until: Sequence[str]) -> str:
        end = next((place for place, token in enumerate(ids) if token in stops), len(ids))
        text = decode(self.tokenizer, ids[:end])
        return text[: min((place for stop in until if stop and (place := text.find(stop)) >= 0), default=len(text))]


class Spelled(StoppingCriteria):
    """Ends a row when what has been generated spells a stop text; new tokens begin at column `width`."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, until: Sequence[str], width: int) -> None:
        self.tokenizer, self.width = tokenizer, width
        self.until = [text for text in until if text]
        self.tail = SLACK + max((len(text.encode()) for text in self.until), default=0)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """(B, T) -> (B,) bool; a token spells at least one byte, so that the last ones are enough."""
        said = input_ids[:, max(self.width, input_ids.shape[1] - self.tail) :].tolist() if self.until else []
        ended = [any(text in decode(self.tokenizer, row) for text in self.until) for row in said]
        return torch.tensor(ended or [False] * len(input_ids), dtype=torch.bool, device=input_ids.device)
