"""The continuous gate: which stored edit, if any, a prompt is about.

An edit is known by two things. *Subject keys*: the states of its subject's tokens in a low block; a prompt matches if
each of these tokens finds a similar one among the prompt's tokens (late interaction, mean over the subject's tokens
of the best cosine). *Answer keys*: the state at the last prompt token where the first edited block begins, which
shows what is asked about the subject. Answer keys are compared around the mean of all that are stored, which moves with
the stream. The subject counts only near the prompt's end, as far away as it is in the
edit's own prompts and a little further (its reach): what a text mentions earlier it does not ask about. A prompt is in
scope if both exceed their thresholds for one and the same
edit; the best such edit is the match. Keys come from blocks below the first edited one, so they never go stale.
Knows nothing of text or training.
"""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK_FLOATS = 1 << 25  # largest similarity block in memory at once
TAIL = 0.02  # share of wanted similarities that may fall below the threshold before slack
PRIOR = 4  # edits that the centre of plain sentences counts for, against those of the stream
ENOUGH = 8  # samples of a kind before it counts
ANYWHERE = 1 << 30  # reach of an edit whose subject may stand anywhere in a prompt
UNNAMED = ANYWHERE + 1  # reach of an edit whose keys are not those of a named subject: they need be no whole word


@dataclass(frozen=True)
class Match:
    """The best stored edit of each prompt.

    Attributes:
        owner: (B,) the number of the edit that answers for it; meaningless where `inside` is False.
        matched: (B,) the number of the edit that was found, which may have been replaced by the owner.
        inside: (B,) bool.
        subject: (B,) its subject similarity, -1 where nothing is stored.
        answer: (B,) its answer similarity.
    """

    owner: Tensor
    matched: Tensor
    inside: Tensor
    subject: Tensor
    answer: Tensor


class KeyMemory:
    """Subject and answer keys of all edits, as unit vectors.

    Args:
        width: Model width (D); keys are projected to `key_width` when that is smaller.
        key_width: Width of stored keys (Q at most).
        subject_tokens: Tokens of a subject that are kept (S).
        sources: Prompts of an edit that give keys (J).
        seed: Of the projection.
        device: Where matching happens.
        moving: Answer keys are compared around the mean of those stored; else around `answer_center`, set once.
    """

    def __init__(
        self,
        width: int,
        key_width: int,
        subject_tokens: int,
        sources: int,
        seed: int,
        device: torch.device,
        moving: bool = False,
    ) -> None:
        self.subject_tokens, self.sources, self.device, self.moving = subject_tokens, sources, device, moving
        generator = torch.Generator().manual_seed(seed)
        self.projection: Tensor | None = None
        if width > key_width:
            self.projection = (torch.randn(width, key_width, generator=generator) / key_width**0.5).to(device)
        self.width = min(width, key_width)
        self.subject_center = torch.zeros(width, device=device)
        self.answer_center = torch.zeros(width, device=device)
        self.subject = torch.zeros(0, sources, subject_tokens, self.width, device=device)
        self.real = torch.zeros(0, sources, subject_tokens, dtype=torch.bool, device=device)
        self.answer = torch.zeros(0, sources, self.width, device=device)  # as they are stored, see `stored_answer`
        self.answer_scale = torch.ones((), device=device)  # of states around `answer_center`, where keys move
        self.moved = torch.zeros(self.width, device=device)  # sum of all stored answer keys, where the mean moves
        self._units: Tensor | None = None
        self.reach = torch.zeros(0, dtype=torch.long, device=device)
        self.heir = torch.zeros(0, dtype=torch.long, device=device)  # the edit that answers for each: itself, mostly

    def __len__(self) -> int:
        """Number of stored edits."""
        return len(self.subject)

    def unit(self, states: Tensor, center: Tensor) -> Tensor:
        """States (..., D) as unit keys (..., Q): centred, projected, normalised."""
        return F.normalize(self._projected(states, center), dim=-1)

    def _projected(self, states: Tensor, center: Tensor) -> Tensor:
        centred = states.float() - center
        return centred if self.projection is None else centred @ self.projection

    def stored_answer(self, states: Tensor) -> Tensor:
        """States at last prompt tokens (..., D) as answer keys are stored (..., Q): where the mean moves, not unit."""
        if not self.moving:
            return self.unit(states, self.answer_center)
        return self._projected(states, self.answer_center) / self.answer_scale

    def as_units(self, stored: Tensor) -> Tensor:
        """Stored answer keys (..., Q) as unit keys around the present mean."""
        if not self.moving:
            return stored
        return F.normalize(stored - self.moved / ((len(self) + PRIOR) * self.sources), dim=-1)

    @property
    def answers(self) -> Tensor:
        """(E, J, Q) all answer keys as unit keys; computed once for each state of the memory."""
        if self._units is None:
            self._units = self.as_units(self.answer)
        return self._units

    def add(self, subject: Tensor, real: Tensor, answer: Tensor, reach: Tensor | None = None) -> None:
        """Store edits.

        Args:
            subject: (E, J, S, Q) unit keys.
            real: (E, J, S) bool, which of them are real.
            answer: (E, J, Q) keys as `stored_answer` makes them.
            reach: (E,) long, tokens that may follow the subject in a prompt; `UNNAMED` where the keys name no subject.
                None: they name none.
        """
        unnamed = torch.full((len(subject),), UNNAMED, device=self.device)
        self.reach = torch.cat([self.reach, unnamed if reach is None else reach.to(self.device)])
        self.heir = torch.cat([self.heir, len(self) + torch.arange(len(subject), device=self.device)])
        self.subject = torch.cat([self.subject, _rounded(subject * real.unsqueeze(-1))])
        self.real = torch.cat([self.real, real])
        self.answer = torch.cat([self.answer, _rounded(answer)])
        self._units = None
        if self.moving:
            for key in _rounded(answer).flatten(0, 1):  # one after another: the same for any batches and processors
                self.moved = self.moved + key

    def hand_over(self, edit: int, heir: int) -> None:
        """Let a later edit answer wherever an earlier one matches, or one that this has replaced before."""
        self.heir = torch.where(self.heir == self.heir[edit], heir, self.heir)  # a new tensor: snapshots keep theirs

    def similarities(
        self, tokens: Tensor, prompt: Tensor, last: Tensor, begin: int, end: int, cut: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Subject and answer similarity of prompts to the edits [begin, end).

        Args:
            tokens: (B, T, Q) unit keys of the prompts' tokens.
            prompt: (B, T) bool, which tokens are real.
            last: (B, Q) unit answer keys.
            begin: First edit.
            end: One past the last.
            cut: (B, T) bool, tokens that the next one continues within a word; None: none.

        Returns:
            Two (B, E) tensors, the best over the sources of each edit.
        """
        subject = late_interaction(
            tokens, prompt, self.subject[begin:end], self.real[begin:end], self.reach[begin:end], cut
        )
        answer = torch.einsum("bq,ejq->bej", last, self.answers[begin:end]).amax(-1)
        return subject, answer

    def match(
        self,
        states: Tensor,
        prompt: Tensor,
        last: Tensor,
        subject_at: float,
        answer_at: Tensor | float,
        cut: Tensor | None = None,
    ) -> Match:
        """The best stored edit of each prompt.

        Args:
            states: (B, T, D) raw states where subject keys are taken.
            prompt: (B, T) bool, which tokens belong to the prompt.
            last: (B, D) raw state where answer keys are taken.
            subject_at: Least subject similarity.
            answer_at: The least answer similarity, of each edit (E,) or of all.
            cut: (B, T) bool, tokens that the next one continues within a word; None: none.
        """
        tokens, query = self.unit(states, self.subject_center), self.as_units(self.stored_answer(last))
        batch = len(tokens)
        best = torch.full((batch,), -torch.inf, device=tokens.device)
        found = [torch.zeros(batch, dtype=torch.long, device=tokens.device), best - 1, best - 1]
        step, answer_at = self._edits_at_once(tokens), torch.as_tensor(answer_at).expand(len(self))
        for begin in range(0, len(self), step):
            subject, answer = self.similarities(tokens, prompt, query, begin, min(begin + step, len(self)), cut)
            passing = (subject >= subject_at) & (answer >= answer_at[begin : begin + step])
            value, at = torch.where(passing, subject + answer, (subject + answer) - 10.0).max(dim=1)
            better = value > best
            best = torch.where(better, value, best)
            for i, new in enumerate(
                (at + begin, subject.gather(1, at[:, None])[:, 0], answer.gather(1, at[:, None])[:, 0])
            ):
                found[i] = torch.where(better, new, found[i])
        if not len(self):
            return Match(found[0], found[0], found[1] >= 0, found[1].clamp(min=-1), found[2].clamp(min=-1))
        inside = (found[1] >= subject_at) & (found[2] >= answer_at[found[0]])
        return Match(self.heir[found[0]], found[0], inside, found[1].clamp(min=-1), found[2].clamp(min=-1))

    def named(self, states: Tensor, prompt: Tensor, subject_at: float) -> Tensor:
        """(B,) bool: prompts in which the subject of some stored edit is found; arguments as for `match`."""
        tokens = self.unit(states, self.subject_center)
        found = torch.zeros(len(tokens), dtype=torch.bool, device=tokens.device)
        step = self._edits_at_once(tokens)
        for begin in range(0, len(self), step):
            subject, real = self.subject[begin : begin + step], self.real[begin : begin + step]
            found |= (late_interaction(tokens, prompt, subject, real) >= subject_at).any(dim=1)
        return found

    def snapshot(self) -> KeyMemory:
        """The memory as it is now; what is stored later does not show in it."""
        return copy.copy(self)

    def _edits_at_once(self, tokens: Tensor) -> int:
        """Edits that are compared at once with (B, T, Q) keys, so that their similarities fit in memory."""
        per_edit = max(1, tokens.shape[0] * tokens.shape[1] * self.sources * self.subject_tokens)
        return max(1, CHUNK_FLOATS // per_edit)

    def state(self) -> dict[str, Tensor]:
        """Everything stored, on the CPU: real keys only, in half precision, which is how they were rounded."""
        moving = {"answer_scale": self.answer_scale.cpu().clone(), "moved": self.moved.cpu().clone()}
        return (moving if self.moving else {}) | {
            "subject_center": self.subject_center.cpu().clone(),
            "answer_center": self.answer_center.cpu().clone(),
            "subject": self.subject[self.real].half().cpu(),
            "real": self.real.cpu().clone(),
            "answer": self.answer.half().cpu(),
        }  # not `reach` and `heir`: adapters of before had none, so they are kept with what is known of each edit

    @staticmethod
    def problems(state: Mapping[str, Tensor]) -> list[str]:
        """Contradictions in a state of the right names and shapes."""
        counted, there = int(state["real"].sum()), len(state["subject"])
        return [] if counted == there else [f"'keys.real' counts {counted} subject keys, 'keys.subject' has {there}"]

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave, bit for bit."""
        for name in ("subject_center", "answer_center", "real", *(("answer_scale", "moved") if self.moving else ())):
            setattr(self, name, state[name].to(self.device).clone())
        self.answer, self._units = state["answer"].to(self.device).float(), None
        self.subject = torch.zeros(*self.real.shape, self.width, device=self.device)
        self.subject[self.real] = state["subject"].to(self.device).float()
        self.reach = torch.full((len(self.real),), UNNAMED, device=self.device)
        self.heir = torch.arange(len(self.real), device=self.device)


def _rounded(keys: Tensor) -> Tensor:
    """Keys as half precision holds them, so that saving loses nothing."""
    return keys.half().float()


def late_interaction(
    tokens: Tensor,
    prompt: Tensor,
    subject: Tensor,
    real: Tensor,
    reach: Tensor | None = None,
    cut: Tensor | None = None,
) -> Tensor:
    """How well the subjects of edits are found in prompts.

    Args:
        tokens: (B, T, Q) unit keys of the prompts' tokens.
        prompt: (B, T) bool.
        subject: (E, J, S, Q) unit subject keys.
        real: (E, J, S) bool; a source without any real key never matches.
        reach: (E,) long, most tokens of a prompt that may follow the last token of a subject; None: any number.
        cut: (B, T) bool, tokens that the next one continues within a word: no subject ends there. None: none.

    Returns:
        (B, E): mean over a subject's tokens of the best cosine with any prompt token, best over sources.
    """
    edits, sources, width = subject.shape[:3]
    similar = tokens @ subject.reshape(-1, subject.shape[-1]).T  # (B, T, E*J*S)
    similar = similar.masked_fill(~prompt[:, :, None], -1.0)
    if reach is not None and bool((reach < prompt.shape[1]).any()):
        after = prompt.flip(1).cumsum(1).flip(1) - 1  # (B, T) tokens of the prompt that follow each one
        longest = real.sum(-1).amax(-1) - 1  # a subject's first token is that much further away than its last
        far = after[:, :, None] > (reach + longest)[None, None]  # (B, T, E)
        apart = similar.view(*similar.shape[:2], edits, -1)
        similar = apart.masked_fill(far[..., None], -1.0).flatten(2)
    count = real.sum(-1)
    best = similar.amax(dim=1).view(-1, edits, sources, width)
    mean = (best * real).sum(-1) / count.clamp(min=1)
    if cut is not None and bool((cut & prompt).any()):
        slots = torch.arange(edits * sources, device=real.device) * width + (count.clamp(min=1) - 1).flatten()
        ending = similar[:, :, slots].masked_fill(cut[:, :, None], -1.0).amax(dim=1)
        lost = best.flatten(1)[:, slots] - ending  # 0 where the subject also stands as a whole word
        named = torch.ones(edits, dtype=torch.bool, device=real.device) if reach is None else reach != UNNAMED
        mean = mean - lost.view(-1, edits, sources) * named[:, None]
    return mean.masked_fill(count == 0, -1.0).amax(-1)


class ThresholdCalibrator:
    """A threshold a little below the similarities that should pass.

    The similarities of an edit's own wordings are a fair sample of those. What should not pass is known only in part:
    the other edits are few and unlike most of the world. So the threshold is just below the wanted ones, and never
    below what other edits reach. Works on bounded samples, so its cost does not grow with the stream.

    Args:
        prior: Threshold while there are too few samples.
        barred: Share of the unwanted samples that must stay below the threshold (unless that would bar half of the
            wanted ones).
        slack: Share of the gap to the unwanted samples that is given away to recall.
        limit: Samples kept of each kind; all that were ever observed are equally likely to be among them.
    """

    def __init__(self, prior: float, barred: float, slack: float, limit: int = 2048) -> None:
        self.prior, self.barred, self.slack, self.limit = prior, barred, slack, limit
        self.wanted: list[float] = []
        self.unwanted: list[float] = []
        self.observed = [0, 0]  # how many of each kind, those that were not kept included

    def observe(self, wanted: Sequence[float], unwanted: Sequence[float]) -> None:
        """Add samples of both kinds."""
        self.wanted, self.observed[0] = _sampled(self.wanted, self.observed[0], wanted, self.limit)
        self.unwanted, self.observed[1] = _sampled(self.unwanted, self.observed[1], unwanted, self.limit)

    def passing(self, at: float) -> float:
        """The share of the unwanted samples that reach a threshold, 0 to 1; 0 while there are too few."""
        return sum(one >= at for one in self.unwanted) / len(self.unwanted) if len(self.unwanted) >= ENOUGH else 0.0

    @property
    def threshold(self) -> float:
        """The low tail of the wanted similarities, less some slack, kept above the unwanted ones."""
        if len(self.wanted) < ENOUGH:
            return self.prior
        low: float
        middle: float
        low, middle = torch.tensor(self.wanted).quantile(torch.tensor([TAIL, 0.5])).tolist()
        if len(self.unwanted) < ENOUGH:
            return low
        floor = float(torch.tensor(self.unwanted).quantile(self.barred))
        return min(max(low - self.slack * max(0.0, low - floor), floor), middle)


def _sampled(kept: Sequence[float], before: int, new: Sequence[float], limit: int) -> tuple[list[float], int]:
    """A uniform sample of at most `limit` of all values so far, and how many these are (Vitter 1985, algorithm R).

    Args:
        kept: The sample of the first `before` values.
        before: See above.
        new: The values that follow.
        limit: Size of the sample.
    """
    sample, count = list(kept), before
    for value in new:
        count += 1
        if len(sample) < limit:
            sample.append(value)
        elif (place := random.Random(count).randrange(count)) < limit:
            sample[place] = value
    return sample, count
