"""The routing rules of ELDER and of elder-plus: for which prompts an edit is active, and with which weights.

A rule is a snapshot: it is made after a batch of edits has been learnt and does not change afterwards, so that passes
that run meanwhile see one state of it. Knows nothing of passes, caches or training.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from elder.mixture.answers import AnswerBias, Answers
from elder.mixture.codes import CodeStore
from elder.mixture.keys import KeyMemory, Match
from elder.mixture.route import Routes
from elder.mixture.router import Router, keep_top

LENIENT = 0.25
"""Answer similarity below the threshold that a certain old answer makes up for, at most."""


@dataclass(frozen=True)
class Prompts:
    """R prompts that are to be routed.

    Attributes:
        last: (R, Q) what the tap saw at the last token of each.
        low: (R, T, D) states where subject keys are taken; None for rules that look at the last token only.
        real: (R, T) bool, which of these tokens belong to the prompt.
        ids: (R, T) the tokens themselves; None where the model was given embeddings.
    """

    last: Tensor
    low: Tensor | None
    real: Tensor
    ids: Tensor | None = None


class Deferral(Protocol):
    """A routing rule.

    Attributes:
        whole: In scope, the whole prompt is corrected, not only what follows its last token.
        reads_subject: Whether it needs `Prompts.low`.
        answer_tokens: The longest answer that is looked for in a text of unknown parts; 0: none is looked for.
        may_ask: Whether the base is asked about any edit.
        bias: Pushes answers towards their rest; None: nothing does.
    """

    may_ask: bool
    bias: AnswerBias | None
    whole: bool
    reads_subject: bool
    answer_tokens: int

    def __len__(self) -> int:
        """Number of stored items; without any no prompt is in scope."""

    def decide(self, prompts: Prompts) -> Routes:
        """The routes of R prompts."""

    def named(self, prompts: Prompts) -> Tensor:
        """(R,) bool: prompts that mention the subject of a stored edit; others are in scope at no token."""

    def asks(self, routes: Routes) -> Tensor:
        """(R,) bool: rows that are in scope only if what the base says at the end of the prompt agrees."""

    def agrees(self, routes: Routes, said: Tensor) -> Tensor:
        """(R,) bool, from the base's log-probabilities of the next token, (R, V)."""


class HammingDeferral:
    """ELDER's rule: the routers' code of the query at the last prompt token, and its distance to the stored codes.

    Args:
        router: Of all edited layers.
        codes: The stored codes.
        top_k: Maps that are used in each layer (k).
        epsilon: A query nearer than this is in scope (ELDER, Algorithm 1).
        keys: Centres and projects the query; None: it is used as it is.
        whole: See `Deferral.whole`.
    """

    reads_subject = False
    answer_tokens = 0
    may_ask = False
    bias: AnswerBias | None = None

    def __init__(
        self, router: Router, codes: CodeStore, top_k: int, epsilon: float, keys: KeyMemory | None, whole: bool
    ) -> None:
        self.router, self.codes, self.top_k, self.epsilon = router, codes, top_k, epsilon
        self.keys, self.whole = keys, whole

    def __len__(self) -> int:
        """Number of different codes."""
        return len(self.codes)

    def decide(self, prompts: Prompts) -> Routes:
        """See `Deferral.decide`."""
        query = prompts.last if self.keys is None else self.keys.as_units(self.keys.stored_answer(prompts.last))
        weights, chosen = keep_top(self.router(query), self.top_k)
        distance = self.codes.nearest(chosen)
        rows, device = len(query), query.device
        group = torch.zeros(rows, dtype=torch.long, device=device)
        score = torch.stack([distance.float(), torch.full((rows,), float("nan"), device=device)], dim=1)
        return Routes(distance < self.epsilon, weights, group, group - 1, score)

    def named(self, prompts: Prompts) -> Tensor:
        """See `Deferral.named`: codes know no subject."""
        return torch.zeros(len(prompts.last), dtype=torch.bool, device=prompts.last.device)

    def asks(self, routes: Routes) -> Tensor:
        """See `Deferral.asks`: nobody is asked."""
        return torch.zeros_like(routes.inside)

    def agrees(self, routes: Routes, said: Tensor) -> Tensor:
        """See `Deferral.agrees`."""
        return routes.inside


class KeyDeferral:
    """The rule of elder-plus: the stored edit whose subject and question a prompt matches, see `elder.mixture.keys`.

    Args:
        keys: Subject and answer keys of all edits.
        thresholds: Least subject and answer similarity.
        allocation: (E, L, N) bool, the maps of each edit.
        group_of: (E,) long, the group of low-rank maps of each edit.
        top_k: Maps of an edit in each layer (k).
        router: Weights from the stored key of the matched edit; None: each of its maps counts 1/k.
        whole: See `Deferral.whole`.
        answer_tokens: See `Deferral.answer_tokens`.
        answers: What is known of the answers of each edit; None: nothing.
        least: See `Answers.agree`; None: the base is not asked.
        trade: Nats of the old answer's log-probability above `least` that make up for an answer similarity of 1 below
            the threshold, see `LENIENT`; None: nothing makes up for it.
        goes_on: (V,) bool, ids that continue the word of the token before; None: subjects need not be whole words.
        bias: See `Deferral.bias`.
    """

    reads_subject = True

    def __init__(
        self,
        keys: KeyMemory,
        thresholds: tuple[float, float],
        allocation: Tensor,
        group_of: Tensor,
        top_k: int,
        router: Router | None,
        whole: bool,
        answer_tokens: int,
        answers: Answers | None = None,
        least: float | None = None,
        goes_on: Tensor | None = None,
        trade: float | None = None,
        bias: AnswerBias | None = None,
    ) -> None:
        self.answers, self.least, self.goes_on, self.trade, self.bias = answers, least, goes_on, trade, bias
        self.may_ask = answers is not None and least is not None and answers.any_old
        self.keys, self.thresholds, self.allocation, self.group_of = keys, thresholds, allocation, group_of
        self.top_k, self.router, self.whole = top_k, router, whole
        self.answer_tokens = 0 if whole else answer_tokens

    def __len__(self) -> int:
        """Number of stored edits."""
        return len(self.keys)

    def decide(self, prompts: Prompts) -> Routes:
        """See `Deferral.decide`."""
        match = self._match(prompts)
        group = self.group_of.to(match.owner.device)[match.owner]
        score = torch.stack([match.subject, match.answer], dim=1)
        length = None if self.answers is None else self.answers.length.to(match.owner.device)[match.owner]
        gates = self.weights(match.owner)[0]
        return Routes(match.inside, gates, group, match.owner, score, length, match.matched)  # type: ignore[arg-type]

    def named(self, prompts: Prompts) -> Tensor:
        """See `Deferral.named`."""
        assert prompts.low is not None
        return self.keys.named(prompts.low, prompts.real, self.thresholds[0])

    def asks(self, routes: Routes) -> Tensor:
        """See `Deferral.asks`."""
        if self.answers is None or self.least is None:
            return torch.zeros_like(routes.inside)
        return routes.inside & self.answers.asks(routes.matched)

    def agrees(self, routes: Routes, said: Tensor) -> Tensor:
        """See `Deferral.agrees`."""
        assert self.answers is not None
        assert self.least is not None
        least = torch.full_like(routes.score[:, 1], self.least).to(said.device)
        if self.trade is not None:
            missing = (self.thresholds[1] - routes.score[:, 1]).clamp(min=0).to(said.device)
            least = least + self.trade * missing
        return self.answers.agree(routes.matched, said, least)

    def weights(self, owners: Tensor) -> tuple[Tensor, Tensor | None]:
        """Gates (R, L, N) of the given edits, and the router's log-probabilities if it was asked."""
        if self.router is None:
            return self.allocation[owners].float() / self.top_k, None
        log_p = self.router(self.keys.answers[owners, 0])
        return keep_top(log_p, self.top_k)[0], log_p

    def _match(self, prompts: Prompts) -> Match:
        assert prompts.low is not None
        subject, answer = self.thresholds
        cut = self._cut(prompts)
        return self.keys.match(prompts.low, prompts.real, prompts.last, subject, self._least_alike(answer), cut)

    def _least_alike(self, threshold: float) -> Tensor:
        """(E,) the least answer similarity of each edit."""
        edits = torch.arange(len(self.keys), device=self.keys.device)
        found = torch.full(edits.shape, threshold, device=edits.device)
        if self.may_ask and self.trade is not None:
            assert self.answers is not None
            found = found - LENIENT * self.answers.asks(edits)
        return found

    def _cut(self, prompts: Prompts) -> Tensor | None:
        """(R, T) bool: tokens that the next one of the prompt continues within a word."""
        if self.goes_on is None or prompts.ids is None:
            return None
        going = self.goes_on.to(prompts.ids.device)[prompts.ids.clamp(max=len(self.goes_on) - 1)] & prompts.real
        return torch.nn.functional.pad(going[:, 1:], (0, 1))
