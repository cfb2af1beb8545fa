"""The base of plain fine-tuning: changes of a few maps, trained on the answers of each batch in turn.

Base weights are frozen and shared; what is trained is a change of each map, kept beside it and added to its output, so
that `disabled()` is the base model to the bit. A method defines what the change is made of (`_fresh`, `_dense`) and
what a step must keep to (`_after_step`). Knows nothing of stages.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import isfinite
from typing import Any

import torch
from torch import Tensor, nn

from elder.base import Base, EditOutcome, EditProgress, Receipt, check_edits
from elder.edit import Edit
from elder.edited.model import make_edited, tell_apart
from elder.editors.asking import Asking
from elder.editors.baselines.fine_tuning_options import FineTuningOptions
from elder.editors.weights.deltas import Deltas
from elder.editors.weights.written import WrittenEdits
from elder.errors import SolverError
from elder.hyper.factors import answer_losses
from elder.hyper.maps import edited_maps, map_sizes
from elder.hyper.passes import deal
from elder.metrics.scoring import Pair, score
from elder.mixture.samples import Row, encode_rows
from elder.models.anatomy import anatomy, clone_sharing_weights
from elder.runtime import keep_alike
from elder.state import pack_json, unpack_json
from elder.state_checks import check_state, refuse
from elder.tokens import pad_id

Values = dict[str, Tensor]
"""What is trained, by the names in a state: `weights.5.mlp_out`, `lora.5.mlp_out.a`."""


class FineTuningEditor(Asking):
    """A base model with trained changes at some of its MLP maps.

    Args:
        base: The model to edit; not changed.
        options: The method's.
    """

    method: str
    edits: WrittenEdits[str]

    def __init__(self, base: Base, options: FineTuningOptions) -> None:
        self.base, self.options = base, options
        self._clone = clone_sharing_weights(base.model)  # training runs on it
        parts = anatomy(self._clone)
        self.layers = options.layers or self.default_layers(len(parts.blocks))
        maps = edited_maps(parts, self.layers, options.modules)
        self.sizes = map_sizes(maps)
        self.deltas: Deltas[str] = Deltas(maps, self.sizes, base.runtime.device)
        self._values = self._fresh()
        self._seen = {"edits": 0, "batches": 0}
        self._pad = pad_id(base.tokenizer)
        base.runtime.prepare(self._clone)
        self.model = clone_sharing_weights(base.model)
        public = edited_maps(anatomy(self.model), self.layers, options.modules)
        self.deltas.attach(public)
        tell_apart(public.values())
        self.edits = WrittenEdits(self.deltas, public, f"method {self.method}, on {base.source}")
        make_edited(self.model, self.edits)
        base.runtime.prepare(self.model)

    # ---- for methods --------------------------------------------------------------------------------------------

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The blocks to train when the options name none."""
        raise NotImplementedError

    def _fresh(self) -> Values:
        """What is trained, in float32 on the runtime's device, as it is before the first edit: it changes nothing."""
        raise NotImplementedError

    def _dense(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The change (d, m) of every map, by its name, with gradients to the values."""
        raise NotImplementedError

    def _after_step(self, values: Mapping[str, Tensor], before: Mapping[str, Tensor]) -> None:
        """Change values in place after an optimiser step; `before` are those that the batch began with."""

    # ---- the Editor protocol ------------------------------------------------------------------------------------

    @property
    def edits_applied(self) -> int:
        """See `Editor.edits_applied`."""
        return self._seen["edits"]

    def edit(self, edits: Sequence[Edit], progress: EditProgress | None = None) -> Receipt:
        """Train on edits in batches (see `Editor.edit`).

        Raises:
            ConfigError: There are no edits.
            DataError: An edit has an empty prompt or target; nothing was trained.
            SolverError: A batch's loss is not finite; nothing of the batch counts.
        """
        check_edits(edits)
        begin, size = time.perf_counter(), self.options.batch_size
        outcomes: list[EditOutcome] = []
        losses: list[tuple[float, ...]] = []
        for first in range(0, len(edits), size):
            found, curve = self._learn(edits[first : first + size])
            outcomes += found
            losses.append(curve)
            if progress is not None:
                progress(len(outcomes), len(edits), curve[-1])
        notes = {"largest_shift": max(float(delta.dense.abs().max()) for delta in self.deltas.of.values())}
        return Receipt(tuple(outcomes), tuple(losses), time.perf_counter() - begin, notes)

    def routed_at(self, positions: Tensor) -> AbstractContextManager[None]:
        """See `Editor.routed_at`: nothing is routed."""
        return nullcontext()

    def in_scope(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """See `Editor.in_scope`: trained weights act on every input."""
        return None

    def state_dict(self) -> dict[str, Tensor]:
        """See `Editor.state_dict`."""
        values = {name: value.detach().cpu().clone() for name, value in self._values.items()}
        return {**values, "cursor": pack_json(self._seen)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Editor.load_state_dict`; all is checked before anything is taken over.

        Raises:
            AdapterError: The state belongs to other options, or is damaged; nothing was changed.
        """
        check_state(state, self.state_dict(), ("cursor",), ("cursor",))
        cursor = unpack_json(state["cursor"])
        sound = isinstance(cursor, dict) and set(cursor) == set(self._seen)
        refuse([] if sound and _counts(cursor) else ["'cursor' must count edits and batches"])
        device = self.base.runtime.device
        self._take({name: state[name].to(device, copy=True) for name in self._values}, cursor)

    # ---- parts --------------------------------------------------------------------------------------------------

    def _take(self, values: Values, seen: dict[str, int]) -> None:
        """Answer with these values from the next pass on."""
        with torch.no_grad():
            dense = self._dense(values)
        if seen["batches"]:
            self.deltas.put(dense)
        self._values, self._seen, self.edits.count = values, seen, seen["edits"]

    def _learn(self, batch: Sequence[Edit]) -> tuple[list[EditOutcome], tuple[float, ...]]:
        """Train on a batch; it counts as a whole or, if it fails, not at all. Returns the mean loss of each epoch."""
        rows = self._rows(batch)
        trained = {name: nn.Parameter(value.detach().clone()) for name, value in self._values.items()}
        curve = self._descend(trained, rows, len(batch))
        keep_alike(list(trained.values()), self.base.runtime)  # Adam's steps are each rank's own
        values = {name: value.detach() for name, value in trained.items()}
        with torch.no_grad(), self.deltas.trying(self._dense(values)):
            pairs = [Pair(row.prompt, row.answer) for row in rows]
            scores = score(self._clone, pairs, self.options.micro_batch, self.base.runtime, self._pad)
        if not all(isfinite(one.nll) for one in scores):
            raise SolverError(
                "the model's losses are no longer finite; nothing of this batch counts. Lower editor.lr or the number "
                "of editor.epochs"
            )
        self._take(values, {"edits": self._seen["edits"] + len(batch), "batches": self._seen["batches"] + 1})
        return _outcomes(batch, rows, [one.nll for one in scores]), curve

    def _rows(self, batch: Sequence[Edit]) -> list[Row]:
        o, texts = self.options, self.base.texts
        return [
            row
            for owner, edit in enumerate(batch)
            for row in encode_rows(
                texts, edit.training_prompts if o.rephrases else (edit.prompt,), edit.target, owner, o.terminator
            )
        ]

    def _descend(self, trained: Mapping[str, nn.Parameter], rows: Sequence[Row], edits: int) -> tuple[float, ...]:
        """Breadth first: all edits once, then all again. Collective; the result is the mean loss of each epoch."""
        o = self.options
        optimizer = torch.optim.Adam(trained.values(), lr=o.lr)
        before = {name: value.detach().clone() for name, value in trained.items()}
        shuffled = random.Random(f"{o.seed}/{self._seen['batches']}")
        order, curve = list(range(edits)), []
        for _ in range(o.epochs):
            total = 0.0
            for first in range(0, edits, o.step_edits):
                own = set(order[first : first + o.step_edits])
                loss = self._gradients(trained, [row for row in rows if row.owner in own], len(own))
                total += loss * len(own)
                if loss >= o.stop:
                    optimizer.step()
                    with torch.no_grad():
                        self._after_step(trained, before)
            curve.append(total / edits)
            if not isfinite(total) or curve[-1] < o.stop:
                break
            shuffled.shuffle(order)
        return tuple(curve)

    def _gradients(self, trained: Mapping[str, nn.Parameter], rows: Sequence[Row], edits: int) -> float:
        """Gradients of the mean over edits of the mean over their answers' tokens; returns it. Collective."""
        runtime, device = self.base.runtime, self.base.runtime.device
        tokens = dict[int, int]()
        for row in rows:
            tokens[row.owner] = tokens.get(row.owner, 0) + len(row.answer)
        shares = torch.tensor([1 / (edits * tokens[row.owner]) for row in rows], device=device)
        loss = torch.zeros(1, device=device)
        for value in trained.values():
            value.grad = torch.zeros_like(value)
        for part in deal(rows, self.options.micro_batch, runtime, self._pad):
            with torch.enable_grad(), self.deltas.trying(self._dense(trained)):
                scaled = (answer_losses(self._clone, part) * shares[part.index]).sum() * float(part.real)
            scaled.backward()  # type: ignore[no-untyped-call]
            loss += scaled.detach()
        if runtime.world_size > 1:
            _sum([value.grad for value in trained.values() if value.grad is not None], loss, runtime)
        return float(loss)


def _sum(gradients: Sequence[Tensor], loss: Tensor, runtime: Any) -> None:
    """Add up gradients and the loss over ranks, in place, in one collective."""
    flat = runtime.sum(torch.cat([*(gradient.flatten() for gradient in gradients), loss]))
    parts = torch.split(flat, [*(gradient.numel() for gradient in gradients), 1])
    for own, part in zip([*gradients, loss], parts, strict=True):
        own.copy_(part.view_as(own))


def _outcomes(batch: Sequence[Edit], rows: Sequence[Row], losses: Sequence[float]) -> list[EditOutcome]:
    """The mean loss of each edit's rows."""
    own: list[list[float]] = [[] for _ in batch]
    for row, loss in zip(rows, losses, strict=True):
        own[row.owner].append(loss)
    return [EditOutcome(edit.id, True, sum(found) / len(found)) for edit, found in zip(batch, own, strict=True)]


def _counts(cursor: Mapping[str, Any]) -> bool:
    return all(isinstance(value, int) and not isinstance(value, bool) and value >= 0 for value in cursor.values())
