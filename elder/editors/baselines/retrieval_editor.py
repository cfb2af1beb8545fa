"""The base of editors that store edits as texts and look them up: nothing is trained, no weight is changed.

A method defines what is done with the edits that are found (`_edits`).
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from elder.base import Base, EditOutcome, EditProgress, Receipt, check_edits
from elder.edit import Edit
from elder.edited.model import make_edited
from elder.editors.asking import Asking
from elder.editors.baselines.asked import AskedReader
from elder.editors.baselines.edit_store import EditStore, StoredEdit, problems_of
from elder.editors.baselines.retrieval_options import RetrievalOptions
from elder.editors.baselines.retrieved import SHAPE, Lookup, RetrievedEdits
from elder.errors import ModelError
from elder.metrics.scoring import Pair, score
from elder.mixture.deferral import Prompts
from elder.mixture.pass_info import Version
from elder.mixture.samples import Row, encode_rows
from elder.models.anatomy import clone_sharing_weights
from elder.state import pack_json, unpack_json
from elder.state_checks import check_state, refuse
from elder.tokens import pad_id

TEXTS = ("cursor", "edits")  # entries of a state; both grow, and hold JSON


class RetrievalEditor(Asking):
    """A base model with a store of edits.

    Args:
        base: The model to edit; not changed.
        options: The method's.
    """

    method: str
    edits: RetrievedEdits

    def __init__(self, base: Base, options: RetrievalOptions) -> None:
        _check_cache(base)
        self.base, self.options = base, options
        self.store = EditStore()
        self._reader = AskedReader(base.texts)
        self._seen = {"edits": 0, "batches": 0}
        self._clone = clone_sharing_weights(base.model)  # losses are measured on it before a batch is published
        self.model = clone_sharing_weights(base.model)
        self._trial, self.edits = self._edits(self._clone), self._edits(self.model)
        make_edited(self._clone, self._trial)
        make_edited(self.model, self.edits)
        base.runtime.prepare(self._clone)
        base.runtime.prepare(self.model)

    # ---- for methods --------------------------------------------------------------------------------------------

    @property
    def most(self) -> int:
        """Edits that may be found for a prompt."""
        return 1

    def _edits(self, model: Any) -> RetrievedEdits:
        """The edits as a part of a clone of the base."""
        raise NotImplementedError

    def _rows(self, batch: Sequence[Edit]) -> list[Row]:
        """Prompts with answers whose losses are those of a batch; `owner` is the number of its edit."""
        rows = [encode_rows(self.base.texts, (edit.prompt,), edit.target, i, "none") for i, edit in enumerate(batch)]
        return [row for several in rows for row in several]

    # ---- the Editor protocol ------------------------------------------------------------------------------------

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """No block is edited."""
        return ()

    @property
    def edits_applied(self) -> int:
        """See `Editor.edits_applied`."""
        return self._seen["edits"]

    def edit(self, edits: Sequence[Edit], progress: EditProgress | None = None) -> Receipt:
        """Store edits in batches (see `Editor.edit`); an edit takes the place of an earlier one of the same prompt.

        Raises:
            ConfigError: There are no edits.
            DataError: An edit has an empty prompt or target; nothing was stored.
        """
        check_edits(edits)
        begin, size = time.perf_counter(), self.options.batch_size
        outcomes: list[EditOutcome] = []
        losses: list[tuple[float, float]] = []
        for first in range(0, len(edits), size):
            found, curve = self._store(edits[first : first + size])
            outcomes += found
            losses.append(curve)
            if progress is not None:
                progress(len(outcomes), len(edits), curve[-1])
        return Receipt(tuple(outcomes), tuple(losses), time.perf_counter() - begin)

    def routed_at(self, positions: Tensor) -> AbstractContextManager[None]:
        """See `Editor.routed_at`."""
        return self.edits.placed(positions)

    def in_scope(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """See `Editor.in_scope`; the model is not run."""
        real = attention_mask.bool()
        if self.edits.off:
            return torch.zeros(len(real), dtype=torch.bool, device=real.device)
        nothing = torch.zeros(len(real), 1, device=real.device)
        return self.edits.version.deferral.decide(Prompts(nothing, None, real, input_ids)).inside

    def state_dict(self) -> dict[str, Tensor]:
        """See `Editor.state_dict`: the edits as JSON."""
        return {"cursor": pack_json(self._seen), "edits": pack_json(self.store.first(self.edits_applied).to_json())}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Editor.load_state_dict`; all is checked before anything is taken over.

        Raises:
            AdapterError: The state is damaged, or another method's; nothing was changed.
        """
        check_state(state, self.state_dict(), TEXTS, TEXTS)
        cursor, stored = unpack_json(state["cursor"]), unpack_json(state["edits"])
        wrong = problems_of(stored)
        if not isinstance(cursor, dict) or set(cursor) != set(self._seen) or not _counts(list(cursor.values())):
            wrong.append("'cursor' must count edits and batches")
        elif not wrong and cursor["edits"] != len(stored):
            wrong.append(f"'cursor' counts {cursor['edits']} edits, 'edits' holds {len(stored)}")
        refuse(wrong)
        self.store, self._seen = EditStore.from_json(stored), cursor
        self.edits.publish(self._version(self.edits_applied), same_stream=False)

    # ---- parts --------------------------------------------------------------------------------------------------

    def _store(self, batch: Sequence[Edit]) -> tuple[list[EditOutcome], tuple[float, float]]:
        """Store a batch as a whole or not at all; returns outcomes, and the mean loss before and after."""
        count = self.edits_applied
        if len(self.store.edits) > count:  # an earlier batch was broken off
            self.store = self.store.first(count)
        rows = self._rows(batch)
        self._trial.publish(self._version(count))
        before = self._losses(rows)
        self.store.add([StoredEdit.of(edit, self.options.rephrases) for edit in batch])
        self._trial.publish(self._version(count + len(batch)))
        after = self._losses(rows)
        self._seen = {"edits": count + len(batch), "batches": self._seen["batches"] + 1}
        self.edits.publish(self._trial.version)
        return _outcomes(batch, rows, before, after), (float(before.mean()), float(after.mean()))

    def _losses(self, rows: Sequence[Row]) -> Tensor:
        """(R,) mean cross-entropy of each row's answer under the edits that are being tried. Collective."""
        pairs = [Pair(row.prompt, row.answer) for row in rows]
        runtime, pad = self.base.runtime, pad_id(self.base.tokenizer)
        found = score(self._clone, pairs, self.options.micro_batch, runtime, pad, self._trial.placed)
        return torch.tensor([one.nll for one in found])

    def _version(self, count: int) -> Version:
        lookup = Lookup(self.store, count, self._reader, self.most, self.options.overlap)
        return Version(lookup, (), tuple(edit.id for edit in self.store.edits[:count]), count, SHAPE)


def _check_cache(base: Base) -> None:
    """Refuse a model whose sequences have no cache, since what was found for a prompt is kept there.

    Raises:
        ModelError: It (like Mamba) has none.
    """
    if "past_key_values" not in signature(base.model.forward).parameters:
        raise ModelError(
            f"{type(base.model).__name__} keeps no cache of keys and values, with which this method keeps what a "
            "prompt was about; ultraedit, mend and malmen can edit it"
        )


def _outcomes(batch: Sequence[Edit], rows: Sequence[Row], before: Tensor, after: Tensor) -> list[EditOutcome]:
    owners = torch.tensor([row.owner for row in rows])
    counts = torch.zeros(len(batch)).index_add_(0, owners, torch.ones(len(rows)))
    first, last = (torch.zeros(len(batch)).index_add_(0, owners, loss) / counts for loss in (before, after))
    return [
        EditOutcome(edit.id, True, float(last[i]), details={"loss_before": float(first[i])})
        for i, edit in enumerate(batch)
    ]


def _counts(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in values)
