"""The base of ELDER and its descendants: a model with mixtures attached, a clone to train them on, a state on disk.

A subclass defines how a sequence is routed (`_deferral`) and how a batch is learnt (`_learn`). The model that answers
does not see a batch before it is complete; a batch that fails is undone. Knows nothing of stages.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from elder.base import Base, EditOutcome, EditProgress, Receipt, check_edits
from elder.edit import Edit
from elder.edited.model import make_edited, tell_apart
from elder.editors.asking import Asking
from elder.errors import ModelError
from elder.forward.partial import PartialForward
from elder.forward.shortcuts import FirstBlock, LastBlock
from elder.forward.suffix import SuffixTrainer
from elder.mixture.attach import Low, attach_head, attach_mixtures, attach_tap, listen_low
from elder.mixture.deferral import Deferral
from elder.mixture.edits import MixtureEdits
from elder.mixture.lora import LowRankMixture, initial_bound
from elder.mixture.pass_info import Groups, Version
from elder.mixture.route import Plan, Routes
from elder.models.anatomy import Anatomy, anatomy, clone_sharing_weights, dimensions
from elder.state import pack_json, unpack_json
from elder.state_checks import check_state, refuse, take
from elder.tokens import pad_id, stop_ids


class MixtureEditor(Asking):
    """A mixture of low-rank maps in some blocks of a decoder, routed once a sequence.

    Args:
        base: The model to edit; not changed.
        options: Shape of the mixture and of its training.
    """

    method: str
    options: Any  # the frozen model of this method's options
    growing: tuple[str, ...] = ("cursor",)  # entries that grow with the stream, see `check_state`
    texts: tuple[str, ...] = ("cursor",)
    tap_output = False  # the output of `_tap` routes a sequence, not its input
    edits: MixtureEdits

    def __init__(self, base: Base, options: Any) -> None:
        self.base, self.options = base, options
        self._clone = clone_sharing_weights(base.model)  # training runs on it; its forwards are patched
        self._parts = parts = anatomy(self._clone)
        self.layers = options.layers or self.default_layers(len(parts.blocks))
        if not self.layers:
            raise ModelError(f"editor.layers: a model of {len(parts.blocks)} block has none to edit above a query")
        self.targets = [parts.target(layer, options.target) for layer in self.layers]
        self._seen: dict[str, int] = {"edits": 0, "batches": 0}
        generator = torch.Generator().manual_seed(options.seed)
        self.mixtures = self._new_group(generator)
        self.groups: list[nn.ModuleList] = [self.mixtures]  # subclasses may open more
        self._build(generator)
        self.model = clone_sharing_weights(base.model)
        self.edits = MixtureEdits(
            self._version(()),
            self.model.get_input_embeddings(),
            stop_ids(base.tokenizer, base.texts.stops),
            self._low_block(),
            f"method {self.method}, on {base.source}",
            self.model.get_output_embeddings(),  # type: ignore[no-untyped-call]
            base.runtime if base.runtime.sharded else None,
        )
        self._partial = PartialForward(parts.blocks)
        self._attach(self._clone, parts)
        self._attach(self.model, anatomy(self.model))
        self._trainers()
        make_edited(self.model, self.edits)
        base.runtime.prepare(self._clone)
        base.runtime.prepare(self.model)

    def _attach(self, model: nn.Module, parts: Anatomy) -> None:
        """Register the hooks that route and correct on a model."""
        if self.edits.version.deferral.reads_subject:
            listen_low(model, parts.blocks, self._low_block(), Low(self.edits))  # type: ignore[arg-type]
        attach_tap(self._tap(parts), self.edits, self.tap_output)
        targets = [parts.target(layer, self.options.target) for layer in self.layers]
        attach_mixtures(targets, self.edits)
        if model is self.model:
            if self._pushes:
                attach_head(model.get_output_embeddings(), self.edits)  # type: ignore[no-untyped-call]
            tell_apart(m for m in (*targets, self._tap(parts)) if dimensions(m) is not None)

    def _trainers(self) -> None:
        """Make what runs the edited part alone; it registers hooks, so it comes before the model is prepared."""
        blocks = self._parts.blocks
        self.trainer = SuffixTrainer(
            self._clone,
            self._partial,
            self.layers,
            self._tap(self._parts),
            self,
            self.base.runtime,
            pad_id(self.base.tokenizer),
            self.options.micro_batch,
            FirstBlock(blocks[self.layers[0]], self.targets[0]),
            LastBlock(blocks[-1], self._parts.mlp_out[-1], self._clone.get_output_embeddings()),  # type: ignore[no-untyped-call]
            len(blocks),
            self.tap_output,
        )

    # ---- for subclasses -----------------------------------------------------------------------------------------

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """The blocks to edit when the options name none."""
        return default_layers(depth)

    def _build(self, generator: torch.Generator) -> None:
        """Make the parts that route (router, stores)."""
        raise NotImplementedError

    def _tap(self, parts: Anatomy) -> nn.Module:
        """The module of a model whose input (or output, see `tap_output`) routes a sequence."""
        raise NotImplementedError

    def _low_block(self) -> int:
        """Where the states of subjects are read; 0: the token embeddings."""
        return 0

    @property
    def _pushes(self) -> bool:
        """Whether logits are changed beside the edited maps."""
        return False

    def _deferral(self) -> Deferral:
        """The present routing rule, as a snapshot."""
        raise NotImplementedError

    def _ids(self) -> tuple[str, ...]:
        """Id of every edit by its number, where the method knows edits by number."""
        return ()

    def _clashes(self, edit: Edit, earlier: Edit) -> bool:
        """Whether two edits must not be in one batch: the later one is about the same fact."""
        return edit.prompt == earlier.prompt

    def _undo(self) -> Callable[[], None]:
        """A function that restores everything that `_learn` changes as it is now; subclasses add their parts."""
        seen, groups = dict(self._seen), list(self.groups)
        trained = {p: p.detach().clone() for p in self.trainable()}

        def undo() -> None:
            self._seen, self.groups[:] = seen, groups
            with torch.no_grad():
                for parameter, value in trained.items():
                    parameter.copy_(value)
                    parameter.grad = None

        return undo

    def _learn(self, edits: Sequence[Edit]) -> tuple[list[EditOutcome], list[float]]:
        """Learn one batch; returns the outcome of each edit, and the loss of each step."""
        raise NotImplementedError

    def _notes(self) -> dict[str, float]:
        """Figures about the present state, for the receipt."""
        return {}

    def _warnings(self) -> tuple[str, ...]:
        """What the user should know about the present state, for the receipt."""
        return ()

    def _state(self) -> dict[str, Tensor]:
        """The routing part's share of the state."""
        raise NotImplementedError

    def _load(self, state: Mapping[str, Tensor]) -> None:
        """Restore the routing part's share; names, shapes and formats have been checked."""
        raise NotImplementedError

    def _groups_in(self, state: Mapping[str, Tensor]) -> int:
        """Number of groups of low-rank maps in a state."""
        return 1

    def _contradictions(self, state: Mapping[str, Tensor]) -> list[str]:
        """Contradictions in a state of the right names and shapes."""
        cursor = unpack_json(state["cursor"])
        known = isinstance(cursor, dict) and all(isinstance(cursor.get(name), int) for name in self._seen)
        return [] if known else [f"'cursor' must count {' and '.join(self._seen)}"]

    # ---- the Editor protocol ------------------------------------------------------------------------------------

    def edit(self, edits: Sequence[Edit], progress: EditProgress | None = None) -> Receipt:
        """Apply edits in batches of `options.batch_size` (see `Editor.edit`); a prompt comes once in a batch.

        Raises:
            ConfigError: There are no edits.
            DataError: An edit has an empty prompt or target; nothing was learnt.
        """
        check_edits(edits)
        begin, outcomes, losses = time.perf_counter(), [], []
        for batch in _batches(edits, self.options.batch_size, self._clashes):
            done, curve = self._learn_or_nothing(batch)
            self._publish()
            outcomes += done
            losses.append(tuple(curve))
            if progress is not None:
                progress(len(outcomes), len(edits), curve[-1] if curve else float("nan"))
        seconds = time.perf_counter() - begin
        return Receipt(tuple(outcomes), tuple(losses), seconds, self._notes(), self._warnings())

    @property
    def edits_applied(self) -> int:
        """See `Editor.edits_applied`."""
        return self._seen["edits"]

    def routed_at(self, positions: Tensor) -> AbstractContextManager[None]:
        """See `Editor.routed_at`."""
        return self.edits.placed(positions)

    def imposing(self, plan: Plan) -> AbstractContextManager[None]:
        """Passes in this block use a given plan and the maps as they are being trained."""
        return self.edits.imposing(plan, tuple(tuple(group) for group in self.groups))

    def in_scope(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        """See `Editor.in_scope`."""
        return self.routes(input_ids, attention_mask).inside

    def routes(self, input_ids: Tensor, attention_mask: Tensor) -> Routes:
        """The routes of prompts; runs the blocks below the first edited one only. Collective under sharding.

        Inside `disabled()` no row is in scope.

        Args:
            input_ids: (B, T).
            attention_mask: (B, T).
        """
        inputs = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "position_ids": (attention_mask.long().cumsum(1) - 1).clamp(min=0),
            "prompt_mask": attention_mask,
            "use_cache": False,
            "logits_to_keep": 1,
        }
        off = self.edits.off
        with torch.no_grad(), self.edits.probing(inputs) as run, self._partial.only_below(self.layers[0]):
            self._clone(**run.kwargs)
            self._partial.reached()
        if self.edits.any_asks(run):
            with torch.no_grad(), self.edits.probing(inputs) as run:
                self.edits.ask(run, self._clone(**run.kwargs))
        assert run.routes is not None
        return replace(run.routes, inside=run.routes.inside & (not off))

    def state_dict(self) -> dict[str, Tensor]:
        """See `Editor.state_dict`."""
        state = {name: p.detach().cpu().clone() for name, p in self._low_rank().items()}
        state["cursor"] = pack_json(self._seen)
        return state | self._state()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Editor.load_state_dict`; all is checked before anything is taken over.

        Raises:
            AdapterError: The state belongs to other options, or is damaged; nothing was changed.
        """
        groups = self._groups_in(state)
        check_state(state, self._pattern(groups), self.growing, self.texts)
        refuse(self._contradictions(state))
        del self.groups[groups:]
        while len(self.groups) < groups:
            self._open_group()
        self._take_low_rank(state)
        self._seen = unpack_json(state["cursor"])
        self._load(state)
        self.edits.publish(self._version(()), same_stream=False)

    # ---- parts --------------------------------------------------------------------------------------------------

    def trainable(self) -> list[nn.Parameter]:
        """The low-rank maps; subclasses add their router."""
        return list(self.mixtures.parameters())

    def _low_rank(self) -> dict[str, Tensor]:
        """The low-rank maps of all groups by name."""
        return {
            f"mixtures.{g}.{name}": p for g, group in enumerate(self.groups) for name, p in group.named_parameters()
        }

    def _take_low_rank(self, state: Mapping[str, Tensor]) -> None:
        """Restore the low-rank maps from a checked state."""
        take(self._low_rank(), state)

    def _new_group(self, generator: torch.Generator) -> nn.ModuleList:
        """A fresh mixture for every edited layer; it changes nothing yet."""
        o, group = self.options, nn.ModuleList()
        for target in self.targets:
            d_in, d_out = size_of(target)
            scale = (o.rank if o.alpha is None else o.alpha) / o.rank
            bound = initial_bound(o.init, d_in, o.rank)
            group.append(LowRankMixture(d_in, d_out, o.experts, o.rank, scale, bound, generator))
        return group.to(self.base.runtime.device)

    def _open_group(self) -> None:
        """Add one more group of low-rank maps."""
        generator = torch.Generator().manual_seed(self.options.seed + 1_000_003 * len(self.groups))
        self.groups.append(self._new_group(generator))

    def _pattern(self, groups: int) -> dict[str, Tensor]:
        """The present state as if there were `groups` groups: names, shapes and formats count, values do not."""
        own = self.state_dict()
        first = [name for name in own if name.startswith("mixtures.0.")]
        rest = {name: tensor for name, tensor in own.items() if not name.startswith("mixtures.")}
        return {name.replace(".0.", f".{g}.", 1): own[name] for g in range(groups) for name in first} | rest

    def _learn_or_nothing(self, batch: Sequence[Edit]) -> tuple[list[EditOutcome], list[float]]:
        """Learn a batch; if that fails, everything is as it was before."""
        undo = self._undo()
        try:
            learnt = self._learn(batch)
        except BaseException:
            undo()
            raise
        self._seen["edits"] += len(batch)
        self._seen["batches"] += 1
        return learnt

    def _publish(self) -> None:
        """Let the model answer with what has been learnt; groups that are full are there already."""
        self.edits.publish(self._version(self.edits.version.groups[: len(self.groups) - 1]))

    def _version(self, done: Groups) -> Version:
        """All that has been learnt so far, with copies of the groups that are not `done`."""
        fresh = tuple(tuple(_frozen(group, self.base.model.dtype)) for group in self.groups[len(done) :])
        shape = (len(self.layers), self.options.experts)
        return Version(self._deferral(), done + fresh, self._ids(), self.edits_applied, shape)


def _frozen(group: nn.ModuleList, dtype: torch.dtype) -> nn.ModuleList:
    """A copy that is not trained, in the format in which the model computes, so that no pass converts it again."""
    return copy.deepcopy(group).requires_grad_(False).to(dtype)


def default_layers(depth: int) -> tuple[int, ...]:
    """Six blocks at the paper's relative depth (21 to 26 of LLaMA2-7B's 32), fewer in small models.

    At least the first block is left alone, for a query layer. Models of up to 18 blocks are edited
    up to their end; deeper ones keep their last blocks as they are.
    """
    count = min(6, max(1, depth // 2))
    first = max(1, min(round(depth * 21 / 32), depth - count))
    return tuple(range(first, min(first + count, depth)))


def _batches(edits: Sequence[Edit], size: int, clash: Callable[[Edit, Edit], bool]) -> Iterator[list[Edit]]:
    """Batches in order; one ends early before an edit that clashes with one in it, so that the newer edit counts."""
    batch: list[Edit] = []
    for edit in edits:
        if len(batch) == size or any(clash(edit, other) for other in batch):
            yield batch
            batch = []
        batch.append(edit)
    yield batch


def size_of(module: nn.Module) -> tuple[int, int]:
    """(in, out) of a linear map."""
    size = dimensions(module)
    if size is None:
        raise TypeError(f"{type(module).__name__} is no linear map")
    return size


def outcomes(edits: Sequence[Edit], rows: Sequence[object], answer_losses: Tensor) -> list[EditOutcome]:
    """Mean answer loss of each edit's rows as its outcome; (R,) losses in the order of the rows."""
    owners = torch.tensor([row.owner for row in rows])  # type: ignore[attr-defined]
    lengths = torch.tensor([len(row.answer) for row in rows], dtype=torch.float)  # type: ignore[attr-defined]
    loss = torch.zeros(len(edits)).index_add_(0, owners, answer_losses.float())
    count = torch.zeros(len(edits)).index_add_(0, owners, lengths)
    return [EditOutcome(edit.id, True, value) for edit, value in zip(edits, (loss / count).tolist(), strict=True)]
