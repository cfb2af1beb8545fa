"""GRACE: a codebook of values that take the place of one map's output, looked up by keys with radii.

Thomas Hartvigsen and others, "Aging with GRACE: Lifelong Model Editing with Discrete Key-Value Adaptors", NeurIPS 2023
(arXiv 2211.11031). Each prompt of an edit has the input of the map at its last token as key; the value is trained until
the answer follows. A prompt whose key lies within the radius of its nearest stored key has that value there, any other
is the base model's to the bit.

What differs from the reference code, beside what `elder.editors.codebook.radius_keys` says: keys are taken at the last
prompt token, whatever the padding; rows of a batch have their own values at their own places; all new values of a batch
are trained in one pass, each by its own rows' loss, so they are what they would be alone; and a sequence is looked up
once, where its prompt ends, also while it is generated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from elder.base import EditOutcome
from elder.edit import Edit
from elder.editors.codebook.grace_options import GraceOptions
from elder.editors.codebook.radius_deferral import RadiusDeferral
from elder.editors.codebook.radius_keys import RadiusKeys
from elder.editors.codebook.values import TrainedValues, Values
from elder.editors.mixture.mixture_editor import MixtureEditor, outcomes, size_of
from elder.errors import ModelError
from elder.forward.suffix import Prepared, descend
from elder.mixture.pass_info import Groups, Version
from elder.mixture.route import Plan
from elder.mixture.samples import Row, edit_rows
from elder.models.anatomy import Anatomy
from elder.runtime import merge_shares, tensors_by_first
from elder.state import pack_json, unpack_json

SAME = 1e-4  # see `RadiusKeys`; in formats of fewer digits their rounding


class GraceEditor(MixtureEditor):
    """See the module's text; the parts are in this room."""

    method = "grace"
    options: GraceOptions
    growing = ("cursor", "ids", "values", "keys.")
    texts = ("cursor", "ids", "keys.labels")

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The block three quarters up (35 of GPT2-XL's 48, as the reference), and not the last."""
        return (max(0, min(round(depth * 35 / 48), depth - 2)),)

    def _build(self, generator: torch.Generator) -> None:
        if self.layers[0] == len(self._parts.blocks) - 1:
            # The value stands at the last prompt token alone: what comes after it sees it through attention only.
            raise ModelError(
                f"editor.layers: expected a block below the last one, {len(self._parts.blocks) - 1}: later tokens see "
                "a value by the attention of the blocks above it"
            )
        same = max(SAME, torch.finfo(self.base.model.dtype).eps)
        self.keys = RadiusKeys(size_of(self.targets[0])[0], self.options.radius, same, self.base.runtime.device)
        self.ids: list[str] = []
        self._trained: TrainedValues | None = None

    def _tap(self, parts: Anatomy) -> nn.Module:
        return parts.target(self.layers[0], self.options.target)

    def _routed_below(self) -> int:
        return self.layers[0] + 1

    def _deferral(self) -> RadiusDeferral:
        return RadiusDeferral(self.keys, self.options.replacement)

    def _ids(self) -> tuple[str, ...]:
        return tuple(self.ids)

    # ---- values -----------------------------------------------------------------------------------------------------

    @property
    def values(self) -> Values:
        """The values of all keys."""
        found: Values = self.mixtures[0]  # type: ignore[assignment]
        return found

    def _new_group(self, generator: torch.Generator) -> nn.ModuleList:
        """The one group that there is: no value yet."""
        return nn.ModuleList([Values(size_of(self.targets[0])[1], self.base.runtime.device)])

    def trainable(self) -> list[nn.Parameter]:
        """The values in training; none between batches."""
        return [] if self._trained is None else list(self._trained.parameters())

    def imposing(self, plan: Plan) -> AbstractContextManager[None]:
        """See `MixtureEditor.imposing`: the values are those in training."""
        assert self._trained is not None
        return self.edits.imposing(plan, ((self._trained,),))

    def _version(self, done: Groups) -> Version:
        return Version(self._deferral(), ((self.values.snapshot(),),), self._ids(), self.edits_applied, (1, 1))

    # ---- learning ---------------------------------------------------------------------------------------------------

    def _undo(self) -> Callable[[], None]:
        undo, keys, ids, values = super()._undo(), self.keys, list(self.ids), self.values.rows.snapshot()

        def all_of_it() -> None:
            undo()
            self.keys, self.ids, self._trained, self.values.rows = keys, ids, None, values

        return all_of_it

    def _learn(self, edits: Sequence[Edit]) -> tuple[list[EditOutcome], list[float]]:
        o, runtime = self.options, self.base.runtime
        rows = edit_rows(self.base.texts, edits, o.terminator)
        parts = self.trainer.prepare(rows)
        keys, outputs = self._seen_at_ends(parts, len(rows))
        grown, local = self._placed(keys, rows)
        self._trained = TrainedValues(self._start(grown, local, outputs))
        last: dict[int, Tensor] = {}

        def loss_of(number: int, part: Prepared) -> Callable[[], Tensor]:
            mine = local[list(part.index)].float()[None, :, None].to(runtime.device)
            lengths = (part.rows.labels >= 0).sum(1)
            where = self._where(part)

            def loss() -> Tensor:
                answer = self.trainer.answer_losses(part, mine, where)
                last[number] = answer.detach()
                return (answer / lengths * part.rows.weights).sum()

            return loss

        steps = [loss_of(number, part) for number, part in enumerate(parts)]
        losses = descend(self.trainable(), lambda: steps, o.lr, o.steps, runtime)
        with torch.no_grad():  # the loss of the last step is that before it
            final = [
                (part, self.trainer.answer_losses(part, gates, self._where(part)))
                for part in parts
                for gates in [local[list(part.index)].float()[None, :, None].to(runtime.device)]
            ]
        answer = self._of_all_rows([(loss[: _real(part)]) for part, loss in final], len(rows))
        self.values.rows.add(self._trained.values.detach())
        self.keys, self._trained = grown, None
        self.ids += [edit.id for edit in edits]
        return outcomes(edits, rows, answer), [loss / len(rows) for loss in losses]

    def _seen_at_ends(self, parts: Sequence[Prepared], count: int) -> tuple[Tensor, Tensor]:
        """The input and the output of the map at the end of each row's prompt, of all ranks. Collective."""
        both = [torch.cat([part.query, self._output(part)], dim=1)[: _real(part)].float() for part in parts]
        seen = self._of_all_rows(both, count).to(self.base.runtime.device)
        told = tensors_by_first(lambda: [seen], self.base.runtime)[0]
        width = size_of(self.targets[0])[0]
        return told[:, :width], told[:, width:]

    def _output(self, part: Prepared) -> Tensor:
        output: Tensor = part.memo["target"]
        return output.flatten(0, -2)[part.packed.keys]

    def _of_all_rows(self, mine: Sequence[Tensor], count: int) -> Tensor:
        """What each rank has found for its own rows, for all of them in order, on the CPU. Collective."""
        rows = [row for part in mine for row in part.cpu()]
        return torch.stack(merge_shares(self.base.runtime.gather_objects(rows))[:count])

    def _placed(self, keys: Tensor, rows: Sequence[Row]) -> tuple[RadiusKeys, Tensor]:
        """The codebook with a batch's keys in it, and (R,) which of the batch's values each row trains. Collective."""
        before, first, runtime = self.keys, len(self.values), self.base.runtime
        grown = before.snapshot()
        owners = [len(self.ids) + row.owner for row in rows]
        numbers = grown.place(keys, [row.answer for row in rows], owners, first).to(runtime.device)
        if runtime.world_size > 1:
            count = len(before.radius)
            numbers, *changes = tensors_by_first(lambda: [numbers, *grown.since(count)], runtime)
            grown.settle(before, changes)
        return grown, numbers.cpu() - first

    def _start(self, grown: RadiusKeys, local: Tensor, outputs: Tensor) -> Tensor:
        """(K, out) where the values of a batch begin: anew, or where the value of a key that covers a row stands."""
        count, first = int(local.max()) + 1, len(self.values)
        generator = torch.Generator().manual_seed(self.options.seed + 1_000_003 * self.edits_applied)
        start = torch.rand(count, size_of(self.targets[0])[1], generator=generator).to(outputs)
        if self.options.value_init == "warm":
            for row in range(len(local) - 1, -1, -1):  # the first row of a value counts
                start[local[row]] = outputs[row]
        old = len(self.keys.value)
        again = (grown.value[:old] >= first).nonzero()[:, 0]
        start[grown.value[again] - first] = self.values.rows.values[self.keys.value[again]].to(start)
        return start

    def _where(self, part: Prepared) -> Tensor:
        """(P, T) bool, the tokens that have a value."""
        packed = part.packed
        ends = torch.zeros_like(packed.row, dtype=torch.bool).flatten()
        ends[packed.keys] = True
        if self.options.replacement == "last":
            return ends.view_as(packed.row)
        if self.options.replacement == "all":
            return torch.ones_like(packed.row, dtype=torch.bool)
        at_end = packed.position_ids.flatten()[packed.keys][packed.row]
        return packed.position_ids < at_end

    def _notes(self) -> dict[str, float]:
        keys = self.keys
        return {
            "keys": float(len(keys)),
            "covered": float(keys.covered),
            "conflicts": float(keys.conflicts),
            "replaced": float(keys.replaced),
        }

    # ---- state ------------------------------------------------------------------------------------------------------

    def _low_rank(self) -> dict[str, Tensor]:
        return {"values": self.values.rows.values[self.keys.used()]}

    def _take_low_rank(self, state: Mapping[str, Tensor]) -> None:
        self.values.load(state["values"])

    def _state(self) -> dict[str, Tensor]:
        return {f"keys.{name}": t for name, t in self.keys.state().items()} | {"ids": pack_json(self.ids)}

    def _contradictions(self, state: Mapping[str, Tensor]) -> list[str]:
        wrong = super()._contradictions(state)
        ids = unpack_json(state["ids"])
        if not (isinstance(ids, list) and all(isinstance(one, str) for one in ids)):
            return [*wrong, "'ids' must be a list of texts"]
        return [*wrong, *RadiusKeys.problems(_keys_in(state), len(state["values"]), len(ids))]

    def _load(self, state: Mapping[str, Tensor]) -> None:
        self.keys = self.keys.snapshot()
        self.keys.load(_keys_in(state))
        self.ids = unpack_json(state["ids"])


def _real(part: Prepared) -> int:
    """Rows of a part that count; the others only fill it up."""
    return int(part.rows.weights.sum())


def _keys_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("keys."): t for name, t in state.items() if name.startswith("keys.")}
