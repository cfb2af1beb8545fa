"""MELO: neuron-indexed dynamic LoRA, looked up by clusters of keys.

Lang Yu and others, "MELO: Enhancing Model Editing with Neuron-Indexed Dynamic LoRA", AAAI 2024 (arXiv 2312.11795). A
batch of edits trains one low-rank block in each edited map, and the keys of its prompts are stored in clusters. A
prompt whose key lies in one uses the block of the nearest point; any other is the base model's to the bit.

What differs from the reference code, beside what `elder.editors.codebook.clusters` says: keys are taken at the last
prompt token, whatever the padding, and never behind the answer; blocks are added as they are needed, and their factor
(`scaling`) does not depend on how many there may be; a sequence is looked up once, and keeps its block while it is
generated.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from elder.base import EditOutcome
from elder.edit import Edit
from elder.editors.codebook.blocks import Blocks
from elder.editors.codebook.cluster_deferral import ClusterDeferral
from elder.editors.codebook.clusters import Clusters
from elder.editors.codebook.melo_options import MeloOptions
from elder.editors.mixture.mixture_editor import MixtureEditor, outcomes, size_of
from elder.errors import ModelError
from elder.forward.suffix import Prepared, descend
from elder.mixture.lora import LowRankMixture
from elder.mixture.pass_info import Groups, Version
from elder.mixture.route import Plan
from elder.mixture.samples import Row, edit_rows
from elder.models.anatomy import Anatomy
from elder.runtime import merge_shares, tensors_by_first
from elder.state import pack_json, unpack_json

SAME = 1e-4  # see `Clusters`; in formats of fewer digits their rounding


class MeloEditor(MixtureEditor):
    """See the module's text; the parts are in this room."""

    method = "melo"
    options: MeloOptions
    growing = ("cursor", "ids", "blocks.", "clusters.")
    texts = ("cursor", "ids", "clusters.labels")
    tap_output = True

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """Two blocks at the paper's relative depth (36 and 37 of GPT2-XL's 48), one in a model of two blocks."""
        first = max(1, min(round(depth * 36 / 48), depth - 2))
        return tuple(range(first, min(first + 2, depth)))

    def _build(self, generator: torch.Generator) -> None:
        o = self.options
        self.key_layer = self.layers[0] - 1 if o.key_layer is None else o.key_layer
        if not 0 <= self.key_layer < self.layers[0]:
            remedy = "" if self.layers[0] else "; leave block 0 out of editor.layers"
            raise ModelError(
                f"editor.key_layer: expected a block below the first edited one, {self.layers[0]}, "
                f"found {self.key_layer}{remedy}"
            )
        same = max(SAME, torch.finfo(self.base.model.dtype).eps)
        width = size_of(self._tap(self._parts))[1]
        self.clusters = Clusters(width, o.radius, same, self.base.runtime.device)
        self.ids: list[str] = []
        self._block = nn.ModuleList()  # the block that is being trained, a map for each edited layer
        self._apart = _Apart([], [])

    def _tap(self, parts: Anatomy) -> nn.Module:
        return parts.target(self.key_layer, self.options.target)

    def _deferral(self) -> ClusterDeferral:
        return ClusterDeferral(self.clusters, len(self.layers))

    def _ids(self) -> tuple[str, ...]:
        return tuple(self.ids)

    # ---- blocks -----------------------------------------------------------------------------------------------------

    @property
    def blocks(self) -> list[Blocks]:
        """The blocks of each edited layer."""
        return list(self.mixtures)  # type: ignore[arg-type]

    def _new_group(self, generator: torch.Generator) -> nn.ModuleList:
        """The one group that there is: no block yet in any layer."""
        o, device = self.options, self.base.runtime.device
        return nn.ModuleList(Blocks(*size_of(target), o.rank, o.scaling, device) for target in self.targets)

    def _fresh_block(self, number: int) -> nn.ModuleList:
        """Block `number`, which changes nothing yet."""
        o, generator = self.options, torch.Generator().manual_seed(self.options.seed + 1_000_003 * number)
        maps = nn.ModuleList()
        for target in self.targets:
            d_in, d_out = size_of(target)
            bound = 1 / math.sqrt(d_in) if o.init_bound is None else o.init_bound
            maps.append(LowRankMixture(d_in, d_out, 1, o.rank, o.scaling, bound, generator))
        return maps.to(self.base.runtime.device)

    def trainable(self) -> list[nn.Parameter]:
        """The block in training; none between batches."""
        return list(self._block.parameters())

    def imposing(self, plan: Plan) -> AbstractContextManager[None]:
        """See `MixtureEditor.imposing`: the maps are those of the block in training."""
        return self.edits.imposing(plan, (tuple(self._block),))

    def _version(self, done: Groups) -> Version:
        group = tuple(blocks.snapshot() for blocks in self.blocks)
        return Version(self._deferral(), (group,), self._ids(), self.edits_applied, (len(self.layers), 1))

    # ---- learning ---------------------------------------------------------------------------------------------------

    def _undo(self) -> Callable[[], None]:
        undo, clusters, ids, count = super()._undo(), self.clusters, list(self.ids), len(self.blocks[0])

        def all_of_it() -> None:
            undo()
            self.clusters, self.ids, self._block = clusters, ids, nn.ModuleList()
            for blocks in self.blocks:
                blocks.cut(count)

        return all_of_it

    def _learn(self, edits: Sequence[Edit]) -> tuple[list[EditOutcome], list[float]]:
        o, rows = self.options, edit_rows(self.base.texts, edits, self.options.terminator)
        parts = self.trainer.prepare(rows)
        self._block = self._fresh_block(len(self.blocks[0]))
        tokens = sum(len(row.answer) for row in rows)
        last: dict[int, Tensor] = {}

        def loss_of(number: int, part: Prepared) -> Callable[[], Tensor]:
            gates = torch.ones(len(self.layers), len(part.index), 1, device=self.base.runtime.device)

            def loss() -> Tensor:
                answer = self.trainer.answer_losses(part, gates)
                last[number] = answer.detach()
                return (answer * part.rows.weights).sum() / tokens

            return loss

        steps = [loss_of(number, part) for number, part in enumerate(parts)]
        decay = (o.lr_decay_every, o.lr_decay)
        losses = descend(self.trainable(), lambda: steps, o.lr, o.steps, self.base.runtime, decay=decay)
        keys, answer = self._collect(parts, last, len(rows))
        self._store(keys, rows, edits)
        return outcomes(edits, rows, answer), losses

    def _collect(self, parts: Sequence[Prepared], last: Mapping[int, Tensor], count: int) -> tuple[Tensor, Tensor]:
        """The keys and the answer losses of the last step, of all ranks, in the order of the rows. Collective."""
        mine = []
        for number, part in enumerate(parts):
            real = int(part.rows.weights.sum())
            mine += list(zip(part.query[:real].float().cpu(), last[number][:real].tolist(), strict=True))
        merged = merge_shares(self.base.runtime.gather_objects(mine))[:count]
        keys = torch.stack([key for key, _ in merged]).to(self.base.runtime.device)
        return keys, torch.tensor([loss for _, loss in merged])

    def _store(self, keys: Tensor, rows: Sequence[Row], edits: Sequence[Edit]) -> None:
        """Put the keys into clusters as the first rank does, and the trained block beside the others. Collective."""
        before, number = self.clusters, len(self.blocks[0])
        owners = [len(self.ids) + row.owner for row in rows]
        grown = before.snapshot()
        nearest = grown.add(keys, [row.answer for row in rows], number, owners)
        if self.base.runtime.world_size > 1:
            count = len(before.radius)
            grown.settle(before, tensors_by_first(lambda: grown.since(count), self.base.runtime))
        for blocks, trained in zip(self.blocks, self._block, strict=True):
            assert isinstance(trained, LowRankMixture)
            blocks.add(trained.a, trained.b)
        self._apart = _Apart.of(keys, rows, nearest)
        self.clusters, self._block = grown, nn.ModuleList()
        self.ids += [edit.id for edit in edits]

    def _notes(self) -> dict[str, float]:
        clusters = self.clusters
        return {
            "blocks": float(len(self.blocks[0])),
            "clusters": float(len(clusters)),
            "conflicts": float(clusters.conflicts),
            "forgotten": float(clusters.forgotten),
            "replaced": float(clusters.replaced),
            **self._apart.notes(),
        }

    def _warnings(self) -> tuple[str, ...]:
        found, lost, kept = [], self.clusters.forgotten, int((self.clusters.cluster >= 0).sum())
        if lost:
            found.append(
                f"{lost} of {lost + kept} prompts of edits have lost their place to edits with other answers, so that "
                "they are answered by the base or by another edit; a smaller editor.radius helps"
            )
        wordings = self._apart.notes().get("between_wordings", 0.0)
        if self.options.radius < wordings:
            found.append(
                f"editor.radius {self.options.radius:g} is less than the distance between two wordings of an edit "
                f"(median {wordings:.3g}), so that other wordings than the trained ones are hardly in scope"
            )
        return tuple(found)

    # ---- state ------------------------------------------------------------------------------------------------------

    def _low_rank(self) -> dict[str, Tensor]:
        return {
            f"blocks.{layer}.{name}": rows.values
            for layer, blocks in enumerate(self.blocks)
            for name, rows in (("a", blocks.a), ("b", blocks.b))
        }

    def _take_low_rank(self, state: Mapping[str, Tensor]) -> None:
        for layer, blocks in enumerate(self.blocks):
            blocks.load(state[f"blocks.{layer}.a"], state[f"blocks.{layer}.b"])

    def _state(self) -> dict[str, Tensor]:
        return {f"clusters.{name}": t for name, t in self.clusters.state().items()} | {"ids": pack_json(self.ids)}

    def _contradictions(self, state: Mapping[str, Tensor]) -> list[str]:
        wrong = super()._contradictions(state)
        counts = {len(state[name]) for name in self._low_rank()}
        if len(counts) > 1:
            wrong.append(f"'blocks' have {sorted(counts)} entries")
        ids = unpack_json(state["ids"])
        if not (isinstance(ids, list) and all(isinstance(one, str) for one in ids)):
            return [*wrong, "'ids' must be a list of texts"]
        return [*wrong, *Clusters.problems(_clusters_in(state), min(counts), len(ids))]

    def _load(self, state: Mapping[str, Tensor]) -> None:
        self.clusters = self.clusters.snapshot()
        self.clusters.load(_clusters_in(state))
        self.ids = unpack_json(state["ids"])


class _Apart:
    """How far the keys of one batch are apart, so that a radius can be chosen.

    Args:
        wordings: Of each other wording, the distance to its edit's prompt.
        centers: Of each key, the distance to the nearest centre that was there before it.
    """

    def __init__(self, wordings: list[float], centers: list[float]) -> None:
        self.wordings, self.centers = wordings, centers

    @classmethod
    def of(cls, keys: Tensor, rows: Sequence[Row], centers: Tensor) -> _Apart:
        """From keys (R, Q), their rows, and (R,) distances to centres."""
        first: dict[int, int] = {}
        for number, row in enumerate(rows):
            first.setdefault(row.owner, number)
        others = [number for number, row in enumerate(rows) if first[row.owner] != number]
        own = [first[rows[number].owner] for number in others]
        return cls((keys[others] - keys[own]).norm(dim=1).tolist(), centers[centers.isfinite()].tolist())

    def notes(self) -> dict[str, float]:
        """Medians, where there is anything."""
        named = {"between_wordings": self.wordings, "nearest_center": self.centers}
        return {name: statistics.median(values) for name, values in named.items() if values}


def _clusters_in(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("clusters."): t for name, t in state.items() if name.startswith("clusters.")}
