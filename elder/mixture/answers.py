"""What elder-plus knows of the answers of its edits: how long the new one is, and how the old one begins.

The correction of a sequence ends where the new answer ends, so that what follows is the base model's. And a prompt is
about an edit only if the base model, asked, says or nearly says the old answer. And an answer that has been begun can
be pushed towards its rest. Knows nothing of models.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from elder.mixture.route import ENDLESS

UNKNOWN = -1  # the base does not know the fact, so that there is no old answer to ask for


class Answers:
    """The answers of E edits.

    Attributes:
        length: (E,) long, tokens of the new answer with its terminator; `ENDLESS`: the correction does not end.
        old: (E,) long, the first token of the old answer; `UNKNOWN`: the base is not asked.
    """

    def __init__(self) -> None:
        self.length = torch.zeros(0, dtype=torch.long)
        self.old = torch.zeros(0, dtype=torch.long)

    def add(self, length: Sequence[int], old: Sequence[int]) -> None:
        """Note the answers of more edits."""
        self.length = torch.cat([self.length, torch.tensor(length, dtype=torch.long)])
        self.old = torch.cat([self.old, torch.tensor(old, dtype=torch.long)])

    def asks(self, owners: Tensor) -> Tensor:
        """(R,) bool: whether the base is to be asked before a prompt is in scope of these edits, (R,)."""
        if not len(self.old):
            return torch.zeros_like(owners, dtype=torch.bool)
        return self.old.to(owners.device)[owners] != UNKNOWN

    def agree(self, owners: Tensor, said: Tensor, least: Tensor) -> Tensor:
        """(R,) bool: whether the base nearly says the old answer.

        Args:
            owners: (R,) numbers of edits that are asked for.
            said: (R, V) log-probabilities of the next token, of the base at the end of each prompt.
            least: (R,) the least log-probability of the old answer's first token, in nats.
        """
        old = self.old.to(said.device)[owners.to(said.device)]
        return said.gather(1, old[:, None])[:, 0] >= least

    @property
    def any_old(self) -> bool:
        """Whether there is an old answer to ask for."""
        return bool((self.old != UNKNOWN).any())

    @property
    def empty(self) -> bool:
        """Whether nothing is known of any edit."""
        return bool((self.length == ENDLESS).all() and (self.old == UNKNOWN).all())

    def snapshot(self) -> Answers:
        """As they are now; what is added later does not show in it."""
        return copy.copy(self)

    def state(self) -> dict[str, Tensor]:
        """Everything, on the CPU."""
        return {"length": self.length.clone(), "old": self.old.clone()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over what `state` gave."""
        self.length, self.old = state["length"].clone(), state["old"].clone()

    @staticmethod
    def unknown(edits: int) -> dict[str, Tensor]:
        """The state of edits that were made before answers were noted: corrections do not end, nobody is asked."""
        return {"length": torch.full((edits,), ENDLESS), "old": torch.full((edits,), UNKNOWN)}


class AnswerBias:
    """The answers of all edits, and how much is added for them.

    Args:
        size: In nats.
        answers: Of every edit, by number: the ids of its answer, without what ends it, in each form that it may have.
    """

    def __init__(self, size: float, answers: Sequence[Sequence[Sequence[int]]]) -> None:
        self.size, self.answers = size, answers
        self.longest = max((len(form) for forms in answers for form in forms), default=0)

    def next_ids(self, owner: int, said: Sequence[int]) -> list[int]:
        """The ids that may come next in the answer of an edit; none if the text is no beginning of it.

        Args:
            owner: Number of the edit.
            said: The text since the end of the prompt.
        """
        count, text = len(said), list(said)
        forms = (list(form) for form in self.answers[owner])
        return list(dict.fromkeys(form[count] for form in forms if len(form) > count and form[:count] == text))

    def along(self, owner: int, said: Sequence[int], new: Sequence[int | None]) -> Iterator[tuple[int, list[int]]]:
        """What may come next after each new token of a row, as long as there is something.

        Args:
            owner: Number of the edit that the row is about.
            said: The text between the end of the prompt and the new tokens.
            new: The new tokens from the prompt's last one on, or all of them if the prompt ended before. The former is
                written -1; None is padding, after which nothing comes.

        Yields:
            Place among `new`, and the ids.
        """
        text = list(said)
        for place, token in enumerate(new):
            if token is None:
                continue
            text += [token] if token >= 0 else []
            found = self.next_ids(owner, text)
            if not found:
                return
            yield place, found
