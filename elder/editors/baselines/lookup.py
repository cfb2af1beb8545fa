"""Look-up of stored answers: the target of the edit that a prompt is about is said word for word; nothing is learnt.

It is what a gate alone reaches: a method that trains must beat it where the words of a question are unknown, and must
not lose to it where they are known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from elder.editors.baselines.asked import Asked
from elder.editors.baselines.edit_store import StoredEdit
from elder.editors.baselines.lookup_options import LookupOptions
from elder.editors.baselines.retrieval_editor import RetrievalEditor
from elder.editors.baselines.retrieved import AskedRow, Lookup, RetrievedEdits
from elder.mixture.pass_info import Version
from elder.mixture.samples import encode_rows
from elder.runtime import Runtime

MARGIN = 30.0  # nats by which the stored token is likelier than any other: in float32, as good as certain

Terminator = Literal["none", "eos", "sentence"]


class StoredAnswers(RetrievedEdits):
    """Puts the next token of a stored answer above all others, as long as what was said so far is that answer."""

    def __init__(
        self, version: Version, embed: nn.Module, summary: str, runtime: Runtime | None, terminator: Terminator
    ) -> None:
        super().__init__(version, embed, summary, runtime)
        self.terminator = terminator

    def _changed(
        self, call: Callable[..., Any], lookup: Lookup, rows: Sequence[AskedRow], output: Any
    ) -> Tensor | None:
        """See `RetrievedEdits._changed`."""
        forced: list[tuple[int, int, int]] = []
        for one in rows:
            asked, found = lookup.found(one.ids[: one.end])
            answer = self._ids(asked, lookup.store.edits[found[0].number])
            for place, seen in one.places:
                said = one.ids[one.end : seen]
                if len(said) < len(answer) and said == answer[: len(said)]:
                    forced.append((one.row, place, answer[len(said)]))
        if not forced:
            return None
        logits: Tensor = output.logits
        where = torch.tensor(forced, device=logits.device).unbind(1)
        best = logits.detach().amax(-1)[where[0], where[1]]
        return logits.index_put(where, best + MARGIN)

    def _ids(self, asked: Asked, edit: StoredEdit) -> tuple[int, ...]:
        return encode_rows(asked.form, (asked.words,), edit.target, 0, self.terminator)[0].answer


class LookupEditor(RetrievalEditor):
    """See the module's text."""

    method = "lookup"
    options: LookupOptions

    def _edits(self, model: Any) -> RetrievedEdits:
        runtime = self.base.runtime
        summary = f"method {self.method}, on {self.base.source}"
        shared = runtime if runtime.sharded else None
        return StoredAnswers(self._version(0), model.get_input_embeddings(), summary, shared, self.options.terminator)
