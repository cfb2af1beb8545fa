"""What UltraEdit, MEND and MALMEN share: read the factors of a batch, turn them into changes of maps, keep those.

A method says only how factors become changes (`_changes`). A batch is read on the model as it is now and written
into all maps at once. No subject is needed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from elder.base import Base, EditOutcome, EditProgress, Receipt, check_edits
from elder.edit import Edit
from elder.editors.weights.deltas import Deltas
from elder.editors.weights.written import WrittenEditor, rising
from elder.errors import SolverError
from elder.hyper.aggregate import slim
from elder.hyper.factors import Factors, Recorder, read_factors
from elder.hyper.maps import edited_maps, map_sizes
from elder.hyper.options import FactorEditorOptions
from elder.metrics.scoring import Pair, score
from elder.mixture.samples import Row, encode_rows
from elder.models.anatomy import anatomy, clone_sharing_weights
from elder.runtime import tensors_by_first
from elder.state import pack_json
from elder.tokens import pad_id

Changes = dict[str, tuple[Tensor, Tensor]]
"""Name of a map -> factors (d_v, n) and (n, d_k) of its change."""


class FactorEditor(WrittenEditor[str]):
    """A base model with changes at some of its MLP maps.

    Args:
        base: The model to edit; not changed.
        options: The method's.

    Attributes:
        maps: Name -> map of `model`; the names are also those of `deltas`.
    """

    def __init__(self, base: Base, options: FactorEditorOptions) -> None:
        self.base, self.options = base, options
        self._clone = clone_sharing_weights(base.model)  # factors are read on it
        parts = anatomy(self._clone)
        self.layers = options.layers or self.default_layers(len(parts.blocks))
        self.maps = edited_maps(parts, self.layers, options.modules)
        self.sizes = map_sizes(self.maps)
        self.deltas: Deltas[str] = Deltas(self.maps, self.sizes, base.runtime.device)
        self._recorder = Recorder(self.maps)
        self._pad = pad_id(base.tokenizer)
        self._norms = {}
        self._seen = {"edits": 0, "batches": 0, "sizes": {name: [] for name in self.maps}, "ends": []}
        base.runtime.prepare(self._clone)
        self.model = clone_sharing_weights(base.model)
        self._publish(edited_maps(anatomy(self.model), self.layers, options.modules))

    # ---- what a method says -------------------------------------------------------------------------------------

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The blocks to write when the options name none."""
        raise NotImplementedError

    def _changes(self, factors: Mapping[str, Factors]) -> Changes:
        """What a batch does to every map. Must not change the editor: the batch may still be refused.

        Collective: all ranks run it, and what it gives on rank 0 counts.
        """
        raise NotImplementedError

    def _accept(self) -> None:
        """The batch of the last `_changes` was written."""

    def _ready(self) -> None:
        """Raise if nothing can be edited yet."""

    def _memory(self) -> dict[str, Tensor]:
        """What the method adds to the state."""
        return {}

    def _load_memory(self, state: Mapping[str, Tensor]) -> None:
        """Take `_memory` back; all of it has been checked."""

    # ---- the Editor protocol ------------------------------------------------------------------------------------

    def edit(self, edits: Sequence[Edit], progress: EditProgress | None = None) -> Receipt:
        """Apply edits in batches (see `Editor.edit`).

        Raises:
            ConfigError: There are no edits, or nothing trained to edit with.
            DataError: An edit has an empty prompt or target; nothing was written.
            SolverError: A batch has no sound solution, or would change a map too much; it was not written.
        """
        check_edits(edits)
        self._ready()
        begin, size = time.perf_counter(), self.options.batch_size
        outcomes: list[EditOutcome] = []
        losses: list[tuple[float, ...]] = []
        changes: list[float] = []
        for first in range(0, len(edits), size):
            done, curve, change = self._write(edits[first : first + size])
            outcomes += done
            losses.append(curve)
            changes.append(change)
            if progress is not None:
                progress(len(outcomes), len(edits), curve[-1])
        notes = {"largest_change": max(changes)}
        return Receipt(tuple(outcomes), tuple(losses), time.perf_counter() - begin, notes)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Editor.state_dict`."""
        return self.deltas.state_dict() | self._memory() | {"cursor": pack_json(self._seen)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Editor.load_state_dict`; all is checked before anything is taken over.

        Raises:
            AdapterError: The state belongs to other options, or is damaged; nothing was changed.
        """
        cursor = self._checked(state)
        self._check_cursor(cursor)
        self.deltas.load(state, cursor["sizes"])
        self._seen = cursor
        self.edits.count = self.edits_applied
        self._load_memory(state)

    # ---- parts --------------------------------------------------------------------------------------------------

    def _check_cursor(self, cursor: Mapping[str, Any]) -> None:
        """Raise if a state cannot be continued here."""

    def _contradictions(self, state: Mapping[str, Tensor], cursor: Mapping[str, Any]) -> list[str]:
        ends = cursor["ends"]
        sound = rising(ends) and len(ends) == cursor["batches"] and (ends[-1] if ends else 0) == cursor["edits"]
        wrong = [] if sound else ["'cursor': ends must be the counts of edits after each batch"]
        return wrong + super()._contradictions(state, cursor)

    def _rows(self, edits: Sequence[Edit]) -> list[Row]:
        o = self.options
        return [
            row
            for owner, edit in enumerate(edits)
            for row in encode_rows(
                self.base.texts,
                edit.training_prompts if o.rephrases else (edit.prompt,),
                edit.target,
                owner,
                o.terminator,
            )
        ]

    def _write(self, batch: Sequence[Edit]) -> tuple[list[EditOutcome], tuple[float, ...], float]:
        o, rows = self.options, self._rows(batch)
        factors, before = read_factors(
            self._clone, self._recorder, rows, self.base.runtime, self._pad, o.tokens, o.loss, o.micro_batch
        )
        self._weigh()
        *found, sizes = tensors_by_first(lambda: self._solve(factors), self.base.runtime, together=True)
        after = self._add(dict(zip(factors, zip(found[::2], found[1::2], strict=True), strict=True)), rows)
        self._accept()
        self._seen["edits"] += len(batch)
        self._seen["batches"] += 1
        self._seen["ends"] = [*self._seen["ends"], self._seen["edits"]]
        self._note_sizes()
        self.edits.count = self.edits_applied
        curve = (float(before.mean()), float(after.mean()))
        return self._outcomes(batch, rows, before, after), curve, float(sizes.max())

    @torch.no_grad()
    def _solve(self, factors: Mapping[str, Factors]) -> list[Tensor]:
        """Left and right of the change of every map, as they are kept, and behind them all relative sizes.

        Raises:
            SolverError: There is no sound change, or it is too large.
        """
        changes = {name: slim(left, right) for name, (left, right) in self._changes(factors).items()}
        sizes = {name: self._relative_size(name, *change) for name, change in changes.items()}
        for name, size in sizes.items():
            self._check_size(f"map {name}", size, "Lower editor.lr, or take fewer edits together")
        kept = [side.to(self.deltas.of[name].dense) for name in factors for side in changes[name]]
        return [*kept, torch.tensor(list(sizes.values()), dtype=torch.float64)]

    def _add(self, changes: Changes, rows: Sequence[Row]) -> Tensor:
        """Write into all maps; returns (R,) the losses of the rows then. Takes all back if they are not finite."""
        with self.deltas.or_nothing():
            for name, (left, right) in changes.items():
                self.deltas.of[name].add(left, right)
            pairs = [Pair(row.prompt, row.answer) for row in rows]
            scores = score(self._clone, pairs, self.options.micro_batch, self.base.runtime, self._pad)
            after = torch.tensor([one.nll for one in scores])
            if not bool(after.isfinite().all()):
                raise SolverError("the model's losses are no longer finite; nothing of this batch was written")
        return after

    def _outcomes(self, batch: Sequence[Edit], rows: Sequence[Row], before: Tensor, after: Tensor) -> list[EditOutcome]:
        owners = torch.tensor([row.owner for row in rows])
        counts = torch.zeros(len(batch)).index_add_(0, owners, torch.ones(len(rows)))
        first, last = (torch.zeros(len(batch)).index_add_(0, owners, loss) / counts for loss in (before, after))
        return [
            EditOutcome(edit.id, True, float(last[i]), details={"loss_before": float(first[i])})
            for i, edit in enumerate(batch)
        ]
