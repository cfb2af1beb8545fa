"""What UltraEdit, MEND and MALMEN share: read the factors of a batch, turn them into changes of maps, keep those.

A method says only how factors become changes (`_changes`). A batch is read on the model as it is now and written
into all maps at once. No subject is needed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from elder.edit import Edit
from elder.editors.base import Base, EditOutcome, Progress, Receipt, pack_json, unpack_json, weights_digest
from elder.editors.deltas import Deltas
from elder.editors.fit import check_state, refuse
from elder.editors.hyper_options import FactorEditorOptions
from elder.errors import ConfigError, SolverError
from elder.hyper.aggregate import slim
from elder.hyper.factors import Factors, Recorder, read_factors
from elder.hyper.maps import edited_maps, map_sizes
from elder.metrics.scoring import Pair, score
from elder.mixture.samples import Row, encode_rows
from elder.models import anatomy, clone_sharing_weights
from elder.tokens import pad_id

Changes = dict[str, tuple[Tensor, Tensor]]
"""Name of a map -> factors (d_v, n) and (n, d_k) of its change."""


class FactorEditor:
    """A base model with changes at some of its MLP maps.

    Args:
        base: The model to edit; not changed.
        options: The method's.

    Attributes:
        maps: Name -> map of `model`; the names are also those of `deltas`.
    """

    method: str

    def __init__(self, base: Base, options: FactorEditorOptions) -> None:
        self.base, self.options = base, options
        self.model = clone_sharing_weights(base.model)
        parts = anatomy(self.model)
        self.layers = options.layers or self.default_layers(len(parts.blocks))
        self.maps = edited_maps(parts, self.layers, options.modules)
        self.sizes = map_sizes(self.maps)
        self.deltas: Deltas[str] = Deltas(self.maps, self.sizes, base.runtime.device)
        self._recorder = Recorder(self.maps)
        self._pad = pad_id(base.tokenizer)
        self._norms: dict[str, float] = {}
        self._seen: dict[str, Any] = {"edits": 0, "batches": 0, "sizes": {name: [] for name in self.maps}}
        base.runtime.prepare(self.model)

    # ---- what a method says -------------------------------------------------------------------------------------

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The blocks to write when the options name none."""
        raise NotImplementedError

    def _changes(self, factors: Mapping[str, Factors]) -> Changes:
        """What a batch does to every map. Must not change the editor: the batch may still be refused."""
        raise NotImplementedError

    def _accept(self) -> None:
        """The batch of the last `_changes` was written."""

    def _ready(self) -> None:
        """Raise if nothing can be edited yet."""

    def _memory(self) -> dict[str, Tensor]:
        """What the method adds to the state."""
        return {}

    def _recall(self, state: Mapping[str, Tensor], cursor: Mapping[str, Any]) -> None:
        """Take `_memory` back."""

    # ---- the Editor protocol ------------------------------------------------------------------------------------

    def edit(self, edits: Sequence[Edit], progress: Progress | None = None) -> Receipt:
        """Apply edits in batches (see `Editor.edit`).

        Raises:
            ConfigError: There are no edits, or nothing trained to edit with.
            SolverError: A batch has no sound solution, or would change a map too much; it was not written.
        """
        if not edits:
            raise ConfigError("edit: there are no edits to apply")
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

    @property
    def edits_applied(self) -> int:
        """See `Editor.edits_applied`."""
        return int(self._seen["edits"])

    def disabled(self) -> AbstractContextManager[None]:
        """See `Editor.disabled`."""
        return self.deltas.disabled()

    def routed_at(self, positions: Tensor) -> AbstractContextManager[None]:
        """See `Editor.routed_at`: nothing is routed."""
        return nullcontext()

    def in_scope(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """See `Editor.in_scope`: written weights act on every input."""
        return None

    def base_digest(self) -> str:
        """See `Editor.base_digest`."""
        return weights_digest(self.base.model, self.base.runtime)

    def state_dict(self) -> dict[str, Tensor]:
        """See `Editor.state_dict`."""
        return self.deltas.state_dict() | self._memory() | {"cursor": pack_json(self._seen)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Editor.load_state_dict`; all is checked before anything is taken over.

        Raises:
            AdapterError: The state belongs to other options, or is damaged; nothing was changed.
        """
        turned = {name: t.T if name.endswith(".left") else t for name, t in state.items()}  # these grow sideways
        own = {name: t.T if name.endswith(".left") else t for name, t in self.state_dict().items()}
        check_state(turned, own, ("cursor", "delta."), ("cursor",))
        cursor = unpack_json(state["cursor"])
        known = isinstance(cursor, dict) and set(cursor) == set(self._seen) and set(cursor["sizes"]) == set(self.maps)
        refuse([] if known else [f"'cursor' must count {', '.join(self._seen)} of {', '.join(self.maps)}"])
        self._check_cursor(cursor)
        self.deltas.load(state, cursor["sizes"])
        self._seen = cursor
        self._recall(state, cursor)

    def save(self, directory: str | Path) -> None:
        """See `Editor.save`."""
        from elder.adapter import save_adapter

        save_adapter(directory, self)

    # ---- parts --------------------------------------------------------------------------------------------------

    def _check_cursor(self, cursor: Mapping[str, Any]) -> None:
        """Raise if a state cannot be continued here."""

    def _rows(self, edits: Sequence[Edit]) -> list[Row]:
        o = self.options
        return [
            row
            for owner, edit in enumerate(edits)
            for row in encode_rows(
                self.base.tokenizer,
                edit.training_prompts if o.rephrases else (edit.prompt,),
                edit.target,
                owner,
                o.terminator,
            )
        ]

    def _write(self, batch: Sequence[Edit]) -> tuple[list[EditOutcome], tuple[float, ...], float]:
        o, rows = self.options, self._rows(batch)
        factors, before = read_factors(
            self.model, self._recorder, rows, self.base.runtime, self._pad, o.tokens, o.loss, o.micro_batch
        )
        with torch.no_grad():
            changes = {name: slim(left, right) for name, (left, right) in self._changes(factors).items()}
            sizes = {name: self._relative_size(name, *change) for name, change in changes.items()}
            self._check(sizes)
        after = self._add(changes, rows)
        self._accept()
        self._seen["edits"] += len(batch)
        self._seen["batches"] += 1
        self._seen["sizes"] = {name: list(delta.sizes) for name, delta in self.deltas.of.items()}
        curve = (float(before.mean()), float(after.mean()))
        return self._outcomes(batch, rows, before, after), curve, max(sizes.values())

    def _add(self, changes: Changes, rows: Sequence[Row]) -> Tensor:
        """Write into all maps; returns (R,) the losses of the rows then. Takes all back if they are not finite."""
        kept = {name: (d.dense, d.left, d.right, list(d.sizes)) for name, d in self.deltas.of.items()}
        try:
            for name, (left, right) in changes.items():
                self.deltas.of[name].add(left, right)
            pairs = [Pair(row.prompt, row.answer) for row in rows]
            scores = score(self.model, pairs, self.options.micro_batch, self.base.runtime, self._pad)
            after = torch.tensor([one.nll for one in scores])
            if not bool(after.isfinite().all()):
                raise SolverError("the model's losses are no longer finite; nothing of this batch was written")
            return after
        except BaseException:
            for name, (dense, left, right, sizes) in kept.items():
                delta = self.deltas.of[name]
                delta.dense, delta.left, delta.right, delta.sizes = dense, left, right, sizes
            raise

    def _check(self, sizes: Mapping[str, float]) -> None:
        limit = self.options.max_change
        for name, size in sizes.items():
            if not size < float("inf"):
                raise SolverError(f"map {name}: the update is not finite; nothing of this batch was written")
            if limit is not None and size > limit:
                raise SolverError(
                    f"map {name}: the update is {size:.3g} times the weights, above editor.max_change = {limit}; "
                    "nothing of this batch was written. Lower editor.lr, or take fewer edits together"
                )

    def _relative_size(self, name: str, left: Tensor, right: Tensor) -> float:
        """||left right|| / ||W||."""
        if name not in self._norms:
            weight: Any = self.maps[name].weight
            with self.base.runtime.gathered([weight]):
                self._norms[name] = float(weight.detach().float().norm())
        overlap = (left.double().T @ left.double()) * (right.double() @ right.double().T)
        return float(overlap.sum().clamp(min=0).sqrt()) / self._norms[name]

    def _outcomes(self, batch: Sequence[Edit], rows: Sequence[Row], before: Tensor, after: Tensor) -> list[EditOutcome]:
        owners = torch.tensor([row.owner for row in rows])
        counts = torch.zeros(len(batch)).index_add_(0, owners, torch.ones(len(rows)))
        first, last = (torch.zeros(len(batch)).index_add_(0, owners, loss) / counts for loss in (before, after))
        return [
            EditOutcome(edit.id, True, float(last[i]), details={"loss_before": float(first[i])})
            for i, edit in enumerate(batch)
        ]
