"""Edits that are found by the words of a prompt, as a part of the model that they change.

The prompt of a row is read when it has ended, as in a mixture, and what was found stays with the cache of the row. No
weight is changed. A subclass says what follows for the logits (`_changed`); rows that are about no edit are the base
model's to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.loss.loss_utils import ForCausalLMLoss

from elder.editors.baselines.asked import Asked, AskedReader
from elder.editors.baselines.edit_store import EditStore, Found
from elder.errors import ModelError
from elder.mixture.answers import AnswerBias
from elder.mixture.deferral import Prompts
from elder.mixture.edits import MixtureEdits
from elder.mixture.pass_info import Pass, Version
from elder.mixture.prompt_end import NAMES
from elder.mixture.route import Routes
from elder.runtime import Runtime

SHAPE = (1, 1)  # of gates, which nobody reads


@dataclass(eq=False)
class Lookup:
    """The first `count` edits of a store, as a routing rule (see `elder.mixture.deferral.Deferral`).

    Attributes:
        store: All edits; those after `count` are not looked at.
        count: How many there were when the rule was made.
        reader: Reads prompts.
        most: How many edits may be found for a prompt.
        least: The overlap of words that an edit must reach.
    """

    store: EditStore
    count: int
    reader: AskedReader
    most: int
    least: float
    may_ask: bool = False
    whole: bool = False
    reads_subject: bool = True  # so that the prompt is handed over with its ids
    answer_tokens: int = 0
    bias: AnswerBias | None = None

    def __len__(self) -> int:
        """Number of stored edits."""
        return self.count

    def found(self, ids: Sequence[int]) -> tuple[Asked, list[Found]]:
        """What was asked, and the edits that it is about, the nearest first."""
        asked = self.reader.read(ids)
        return asked, self.store.nearest(asked.words, self.most, self.least, self.count)

    def decide(self, prompts: Prompts) -> Routes:
        """See `Deferral.decide`; prompts that came as embeddings are about no edit."""
        rows, device = len(prompts.real), prompts.real.device
        routes = Routes.none(rows, *SHAPE, device)
        if prompts.ids is None:
            return routes
        for row in range(rows):
            found = self.found(prompts.ids[row][prompts.real[row]].tolist())[1]
            if found:
                routes.inside[row] = True
                routes.owner[row] = routes.matched[row] = found[0].number
                routes.score[row] = found[0].score
        return routes

    def named(self, prompts: Prompts) -> Tensor:
        """See `Deferral.named`."""
        return torch.zeros(len(prompts.real), dtype=torch.bool, device=prompts.real.device)

    def asks(self, routes: Routes) -> Tensor:
        """See `Deferral.asks`: the base is never asked."""
        return torch.zeros_like(routes.inside)

    def agrees(self, routes: Routes, said: Tensor) -> Tensor:
        """See `Deferral.agrees`."""
        return routes.inside


@dataclass(frozen=True)
class AskedRow:
    """A row that is about edits, in one pass.

    Attributes:
        row: Its number in the batch.
        ids: All its tokens so far, padding left out.
        end: How many of them belong to the prompt.
        places: Number of a logit of the pass, and how many of `ids` it has seen; only from the end of the prompt on.
    """

    row: int
    ids: tuple[int, ...]
    end: int
    places: tuple[tuple[int, int], ...]


class RetrievedEdits(MixtureEdits):
    """Looks edits up and changes logits.

    Args:
        version: The first version; its `deferral` is a `Lookup`.
        embed: The token embeddings of the model.
        summary: One line about method and model, for people.
        runtime: The ranks that hold the model together, if they do.
    """

    def __init__(self, version: Version, embed: nn.Module, summary: str, runtime: Runtime | None = None) -> None:
        super().__init__(version, embed, frozenset(), -1, summary, None, runtime)

    def batching(self, config: Any) -> None:
        """See `Edits.batching`.

        Raises:
            ModelError: Always.
        """
        raise ModelError(
            "continuous batching keeps no texts of requests, which this method reads: decode with generate()"
        )

    def forward(self, call: Callable[..., Any], kwargs: dict[str, Any]) -> Any:
        """See `Edits.forward`; hidden states, attentions and caches are the base model's."""
        if self.off:
            return call(**{name: value for name, value in kwargs.items() if name not in NAMES})
        asked_for = {name: kwargs.get(name) for name in ("logits_to_keep", "labels", "num_items_in_batch")}
        as_tuple = kwargs.get("return_dict") is False
        with self.probing({**kwargs, **({"return_dict": True} if as_tuple else {})}) as run:
            assert run.tokens is not None
            nothing = torch.zeros(*run.tokens.shape[:2], 1, device=run.tokens.device)
            self.seen_low(nothing)
            self.tapped(nothing)
            output = call(**run.kwargs)
            rows = self._asked_rows(run, output, asked_for["logits_to_keep"])
            output = self.finish(run, output)
            with self.disabled():
                changed = self._changed(call, run.version.deferral, rows, output)  # type: ignore[arg-type]
        if changed is not None:
            output.logits = changed
            labels = asked_for["labels"]
            if labels is not None and output.loss is not None:
                counted = asked_for["num_items_in_batch"]
                output.loss = ForCausalLMLoss(changed, labels, changed.shape[-1], counted)
        return output.to_tuple() if as_tuple else output

    def _changed(
        self, call: Callable[..., Any], lookup: Lookup, rows: Sequence[AskedRow], output: Any
    ) -> Tensor | None:
        """The logits (B, K, V) of a pass with the edits; None: those of the base model.

        Args:
            call: The forward of the base model.
            lookup: What finds the edits.
            rows: The rows that are about some; none of them, if the output has no logits.
            output: That of the base model.
        """
        raise NotImplementedError

    def _asked_rows(self, run: Pass, output: Any, keep: Any) -> list[AskedRow]:
        logits = getattr(output, "logits", None)
        if logits is None or run.routes is None or not bool(run.routes.inside.any()):
            return []
        assert run.tokens is not None
        ids, real = run.tokens, run.real
        real = torch.ones(ids.shape[:2], dtype=torch.bool, device=ids.device) if real is None else real
        ends = torch.full((len(ids),), -1, dtype=torch.long)
        if run.record is not None:
            piece = run.record.content(0)
            ids = torch.cat([piece.tokens.to(ids.device), ids], dim=1)
            real = torch.cat([piece.mask().to(ids.device), real], dim=1)
            ends = run.record.ends.cpu().clone()
        if run.ends is not None:
            fresh = torch.tensor(run.deciding, dtype=torch.long)
            ends[fresh] = run.ends.cpu()[fresh] + run.past
        first = run.past + run.again  # column of the first token that the caller gave
        columns = _columns(keep, first, run.past + run.tokens.shape[1])
        real = real.cpu()
        found = []
        for row in run.routes.inside.nonzero()[:, 0].tolist():
            end, seen = int(ends[row]), real[row].cumsum(0).tolist()
            places = tuple((i, seen[column]) for i, column in enumerate(columns) if column >= end >= 0)
            if places:
                own = tuple(ids[row][real[row].to(ids.device)].tolist())
                found.append(AskedRow(row, own, seen[end], places))
        return found


def _columns(keep: Any, first: int, end: int) -> list[int]:
    """The column of every logit of a pass over the columns from `first` to `end`, as `logits_to_keep` asks for them."""
    columns = list(range(first, end))
    if isinstance(keep, Tensor):
        return [columns[i] for i in keep.tolist()]
    return columns[-keep:] if keep else columns
