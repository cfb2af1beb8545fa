"""The base of ROME, MEMIT, EMMET and AlphaEdit: find values at subjects, then write keys to values in closed form.

A method defines how residuals become an update (`_update`) and what it remembers (`_remember`, `_memory`). Values are
found on the model as it is now; blocks are written in rising order, each with the keys that the lower ones leave.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from math import isfinite
from typing import Any

import torch
from torch import Tensor

from elder.base import Base, EditOutcome
from elder.edit import Edit
from elder.editors.weights.deltas import Deltas
from elder.editors.weights.locate_options import LocateOptions
from elder.editors.weights.written import WrittenEditor
from elder.errors import AdapterError, ModelError, SolverError
from elder.forward.partial import PartialForward
from elder.forward.upper import UpperBlocks, ValueRow
from elder.models.anatomy import anatomy, clone_sharing_weights, dimensions
from elder.runtime import tensors_by_first, told_by_first
from elder.solvers.key_covariance import KeyCovariance
from elder.solvers.moments import SecondMoment
from elder.state import pack_json, state_digest
from elder.targets.contexts import SEEDS, Contexts, sample_contexts
from elder.targets.load_or_collect import StatisticsProgress, load_or_collect_moments, read_windows
from elder.targets.moment_cache import MomentCache
from elder.targets.observe import Observer, Seen
from elder.targets.requests import check_subjects, essence_row, prompt_row, rewriting_row
from elder.targets.statistics import Windows, moment_id
from elder.targets.values import ValueOptions, Values, find_values
from elder.tokens import encode_prompt, pad_id


@dataclass(frozen=True)
class Written:
    """One batch of n edits as it was written into one block.

    Attributes:
        asked: (n,) length of the residual.
        missed: (n,) length of what the update leaves of it at the bare prompt, by the formula.
        size: ||D|| / ||W||, of the batch.
        leverage: (n,) k^T C^-1 k: how unlike ordinary keys a key is; None where C is not known or has no inverse.
    """

    asked: Tensor
    missed: Tensor
    size: float
    leverage: Tensor | None


class LocateEditor(WrittenEditor[int]):
    """A base model with weight changes at the output maps of some MLPs.

    Args:
        base: The model to edit; not changed.
        options: The method's.

    Attributes:
        moments: A store of statistics; set it to have them collected once. None: they are collected for this editor.
        windows: The text of the statistics, if it has been read already; the same on every rank.
        statistics: Block -> second moment of ordinary keys; those missing at the first edit are collected.
    """

    def __init__(self, base: Base, options: LocateOptions) -> None:
        self.base, self.options = base, options
        self._clone = clone_sharing_weights(base.model)  # values are found on it; its forwards are patched
        parts = anatomy(self._clone)
        self.layers = options.layers or self.default_layers(len(parts.blocks))
        maps = {layer: parts.target(layer, "mlp_out") for layer in self.layers}
        sizes = {layer: dimensions(module) or (parts.inner, parts.width) for layer, module in maps.items()}
        device, pad = base.runtime.device, pad_id(base.tokenizer)
        partial = PartialForward(parts.blocks)
        self.maps, self.width = maps, sizes[self.layers[-1]][0]
        self.deltas = Deltas(maps, sizes, device)
        self._observer = Observer(self._clone, partial, maps, base.runtime, pad)
        self._upper = UpperBlocks(self._clone, partial, self.layers[-1], pad, device, maps[self.layers[-1]])
        self.moments: MomentCache | None = None
        self.windows: Windows | None = None
        self.statistics: dict[int, SecondMoment] = {}
        self._ids: dict[str, str] | None = None
        self._priors: dict[int, KeyCovariance] = {}
        self._norms = {}
        self._contexts: Contexts | None = None  # as the state has them
        self._shares: dict[int, float] | None = None  # block -> see `Observer.share_of`
        self._sampled: Contexts | None = None  # as they would be sampled: they depend on base and options only
        self._seen = {
            "edits": 0,
            "batches": 0,
            "sizes": {str(layer): [] for layer in self.layers},
            "statistics": {},
        }
        base.runtime.prepare(self._clone)
        self.model = clone_sharing_weights(base.model)
        public = anatomy(self.model)
        self._publish({layer: public.target(layer, "mlp_out") for layer in self.layers})

    # ---- for methods --------------------------------------------------------------------------------------------

    @staticmethod
    def default_layers(depth: int) -> tuple[int, ...]:
        """Blocks 4 to 8 of 32 (EasyEdit's Llama-2-7B), at this relative depth."""
        first, last = round(depth / 8), round(depth / 4)
        return tuple(range(first, max(last, first) + 1))

    def _update(self, layer: int, keys: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
        """Factors (d, n) and (n, m) of the update of a block, from keys (m, n) and residuals (d, n).

        Asked on rank 0 only, so what it needs of earlier batches must come from `_solved` and `_remember`.
        """
        raise NotImplementedError

    def _solved(self, layer: int, keys: Tensor) -> None:
        """Take note, on every rank, of the keys (m, n) that a block's update was solved for."""

    def _remember(self, keys: Mapping[int, Tensor]) -> None:
        """Take note of a batch's keys, block -> (m, n), as they are after it was written."""

    def _memory(self) -> dict[str, Tensor]:
        """The method's own part of the state; entries whose first dimension grows."""
        return {}

    def _load_memory(self, state: Mapping[str, Tensor]) -> None:
        """Restore `_memory`."""

    def _grouped(self) -> bool:
        """Whether the bare prompt counts like all sampled texts together."""
        return True

    # ---- the Editor protocol ------------------------------------------------------------------------------------

    def _ready(self, edits: Sequence[Edit]) -> None:
        if self.options.needs_subject:
            check_subjects(edits)
        self.prepare()

    def prepare(self, progress: StatisticsProgress | None = None) -> tuple[str, ...]:
        """Read or collect the statistics (see `Preparing`), unless that has been done; the first edit does so too.

        Raises:
            ConfigError: There is no text for them, or too little.
            ModelError: The blocks of this model cannot be written together.
            AdapterError: The edits so far were written with statistics of another text.
            SolverError: Statistics that were given belong to another model.
        """
        self._find_shares()
        if self._ids is not None or not self.options.needs_statistics:
            return ()
        self._check_given()
        missing = [layer for layer in self.layers if layer not in self.statistics]
        if missing and self.windows is None:
            self.windows = told_by_first(self._read_text, self.base.runtime)
        ids = {str(layer): self._id(layer) for layer in self.layers}
        _check_text(self._seen, ids)
        notes: tuple[str, ...] = ()
        if missing:
            assert self.windows is not None
            moments, notes = load_or_collect_moments(
                self.base, missing, self.windows, self.options.bos, self.moments, progress
            )
            self.statistics |= moments
        self._ids = ids
        return notes

    def state_dict(self) -> dict[str, Tensor]:
        """See `Editor.state_dict`."""
        state = self.deltas.state_dict() | self._memory()
        texts = None if self._contexts is None else [list(group) for group in self._contexts.groups]
        state["cursor"] = pack_json({**self._seen, "contexts": texts})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """See `Editor.load_state_dict`; all is checked before anything is taken over.

        Raises:
            AdapterError: The state belongs to other options, or is damaged; nothing was changed.
        """
        cursor = self._checked(state)
        _check_text(cursor, self._ids or {})
        contexts = cursor.pop("contexts")
        self.deltas.load(state, {layer: cursor["sizes"].get(str(layer), []) for layer in self.layers})
        self._contexts = None if contexts is None else Contexts(tuple(tuple(group) for group in contexts))
        self._seen = cursor
        self.edits.count = self.edits_applied
        self._load_memory(state)

    def empty_copy(self) -> Any:
        """See `WrittenEditor.empty_copy`: with the same statistics."""
        fresh = super().empty_copy()
        fresh.moments, fresh.windows, fresh.statistics = self.moments, self.windows, dict(self.statistics)
        fresh._ids = None if self._ids is None else dict(self._ids)
        return fresh

    # ---- parts --------------------------------------------------------------------------------------------------

    def _contradictions(self, state: Mapping[str, Tensor], cursor: Mapping[str, Any]) -> list[str]:
        texts = cursor["contexts"]
        groups = texts is None or (isinstance(texts, list) and all(isinstance(group, list) for group in texts))
        wrong = [] if groups else ["'cursor': contexts must be groups of texts"]
        wrong += [] if isinstance(cursor["statistics"], dict) else ["'cursor': statistics must be named by block"]
        return wrong + super()._contradictions(state, cursor)

    def prior(self, layer: int) -> KeyCovariance:
        """The second moment of ordinary keys of a block, factored once."""
        if layer not in self._priors:
            moment = self.statistics[layer].mean().to(self.base.runtime.device)
            self._priors[layer] = KeyCovariance(moment, jitter=self.options.jitter)
        return self._priors[layer]

    def contexts(self) -> Contexts:
        """The texts before prompts, sampled once from the unedited model and kept in the state."""
        if self._contexts is None:
            if self._sampled is None:
                with self.disabled():
                    self._sampled = self._sample()
            self._contexts = self._sampled
        return self._contexts

    def _sample(self) -> Contexts:
        """Sample contexts from the model as it is."""
        o, base = self.options, self.base
        starts = SEEDS[: o.contexts]
        return sample_contexts(
            self._clone, base.tokenizer, base.runtime, o.seed, starts, o.context_tokens, self._grouped()
        )

    def _find_shares(self) -> None:
        """Find how blocks scale the outputs of their maps; where it is no scaling, values are found inside the block.

        Raises:
            ModelError: It is no scaling, and a residual has to be shared out to several blocks.
        """
        if self._shares is not None:
            return
        ids = tuple(encode_prompt(self.base.tokenizer, "The sky"))
        row = ValueRow(0, ids, len(ids) - 1, (len(ids) - 1,))
        with self.disabled():
            found = {layer: self._observer.share_of(row, layer) for layer in self.layers}
        if None in found.values() and len(self.layers) > 1:
            raise ModelError(
                f"editor.layers: {type(self.model).__name__} puts a norm between its MLPs and the residual stream, so "
                f"that {self.method} cannot share a change out to several blocks; give it one: layers: "
                f"[{self.layers[-1]}]"
            )
        self._upper.inside = None in found.values()
        self._shares = {layer: 1.0 if share is None else share for layer, share in found.items()}

    def _reached(self, seen: Seen) -> Tensor:
        """(B, d) the states that values are added to: outputs of the last block, or of its map (see `UpperBlocks`)."""
        return seen.outputs[self.layers[-1]] if self._upper.inside else seen.hidden

    def _share(self, layer: int) -> float:
        assert self._shares is not None
        return self._shares[layer]

    def _read_text(self) -> Windows:
        o, base = self.options, self.base
        positions = getattr(base.model.config.get_text_config(), "max_position_embeddings", None)
        return read_windows(o.text, o.text_tokens, base.source, base.tokenizer, positions)

    def _id(self, layer: int) -> str:
        """Names the statistics of a block: by text and model, or by content if they were given."""
        if layer in self.statistics:
            return f"given {state_digest(self.statistics[layer].state_dict())}"
        assert self.windows is not None
        return moment_id(self.base.digest, self.windows, layer, self.options.bos)

    def _check_given(self) -> None:
        for layer, moment in self.statistics.items():
            if layer in self.maps and moment.total.shape[0] != self.width:
                raise SolverError(
                    f"the statistics of block {layer} are of width {moment.total.shape[0]}, the model's keys of width "
                    f"{self.width}: they belong to another model"
                )

    def _write(self, batch: Sequence[Edit]) -> tuple[list[EditOutcome], tuple[float, ...], float]:
        """Find the values of a batch, then write block after block."""
        with self.deltas.or_nothing():
            outcomes, curve = self._write_all(batch)
        return outcomes, curve, max(one.details["change"] for one in outcomes)

    def _written(self) -> None:
        self._seen["statistics"] = dict(self._ids or {})

    def _notes(self, outcomes: Sequence[EditOutcome]) -> dict[str, float]:
        return {"value_steps": sum(one.details["steps"] for one in outcomes) / len(outcomes)}

    def _write_all(self, batch: Sequence[Edit]) -> tuple[list[EditOutcome], tuple[float, ...]]:
        how_written, o, last = self.base.texts, self.options, self.layers[-1]
        contexts, count = self.contexts(), len(batch)
        texts = list(product(contexts.texts, how_written.forms))
        prompts = [
            prompt_row(form, i, edit, text, o.fact_token) for i, edit in enumerate(batch) for text, form in texts
        ]
        rows = [
            [rewriting_row(form, i, edit, text, o.fact_token) for text, form in texts]
            + [essence_row(how_written, i, edit, o.kl_position == "end", o.fact_token)]
            for i, edit in enumerate(batch)
        ]
        bare = slice(0, None, len(texts))  # the bare prompt is the first text of each edit
        now = self._observer.look(prompts, last)
        how = ValueOptions(o.steps, o.lr, o.kl_factor, o.decay, o.clamp, o.stop)
        values = find_values(self._upper, rows, self._starts(now)[bare], how, self.base.runtime, o.value_batch)
        check_found(batch, values)
        wanted = self._reached(now)[bare] + values.change
        forms = len(how_written.forms)
        weights = torch.tensor([one / forms for one in contexts.weights for _ in range(forms)], device=wanted.device)
        written = []
        self._weigh()
        for number, layer in enumerate(self.layers):
            now = self._observer.look(prompts, last) if number else now
            gap = (wanted - self._reached(now)[bare]) / (len(self.layers) - number) / self._share(layer)
            written.append(self._write_block(layer, now.keys[layer].view(count, len(texts), -1), weights, gap))
        after = self._observer.look(prompts, last)
        kept = tensors_by_first(
            lambda: [_mean_keys(after.keys[layer].view(count, len(texts), -1), weights) for layer in self.layers],
            self.base.runtime,
        )
        self._remember({layer: keys.T for layer, keys in zip(self.layers, kept, strict=True)})
        left = (wanted - self._reached(after)[bare]).norm(dim=1)
        return outcomes_of(batch, values, written, left), values.curve

    def _starts(self, seen: Seen) -> Tensor:
        """The vectors whose length scales decay and clamp: hidden states after the last block (MEMIT)."""
        return self._reached(seen)

    def _write_block(self, layer: int, keys: Tensor, weights: Tensor, residuals: Tensor) -> Written:
        """Write residuals (n, d) at keys (n, T, m) of T texts. Rank 0 solves for all; see `tensors_by_first`."""
        runtime = self.base.runtime
        mean, left, right, asked, missed, size, *leverage = tensors_by_first(
            lambda: self._solve(layer, keys, weights, residuals), runtime
        )
        self._solved(layer, mean.T)
        self.deltas.of[layer].add(left, right)
        return Written(asked.cpu(), missed.cpu(), float(size), leverage[0].cpu() if leverage else None)

    def _solve(self, layer: int, keys: Tensor, weights: Tensor, residuals: Tensor) -> list[Tensor]:
        """Mean keys (n, m), the factors of the update, and the fields of `Written` in order. Not collective.

        Raises:
            SolverError: There is no sound update, or it is too large.
        """
        mean, bare = _mean_keys(keys, weights), keys[:, 0]  # the bare prompt is the first text
        left, right = self._factors(layer, mean.T, bare.T, residuals.T)
        size = self._relative_size(layer, left, right)
        advice = "Look at the edits with the largest leverage, or raise the ridge"
        self._check_size(f"block {layer}", size, advice)
        missed = residuals.T.double() - left.double() @ (right.double() @ bare.T.double())
        leverage, dense = self._leverage(layer, mean), self.deltas.of[layer].dense  # factors are sent as they are kept
        found = [
            mean,
            left.to(dense),
            right.to(dense),
            residuals.norm(dim=1),
            missed.norm(dim=0),
            torch.tensor(size, dtype=torch.float64),
        ]
        return found if leverage is None else [*found, leverage]

    def _factors(self, layer: int, keys: Tensor, bare: Tensor, residuals: Tensor) -> tuple[Tensor, Tensor]:
        return self._update(layer, keys, residuals)

    def _leverage(self, layer: int, keys: Tensor) -> Tensor | None:
        if layer not in self.statistics:
            return None
        return self.prior(layer).whiten(keys.T.double()).square().sum(0).cpu()


def check_found(batch: Sequence[Edit], values: Values) -> None:
    """Refuse values at which the model's loss is not finite: they would disable it.

    Raises:
        SolverError: There is one; names its edit.
    """
    lost = [edit.id for edit, loss in zip(batch, values.loss, strict=True) if not isfinite(loss)]
    if lost or not bool(values.change.isfinite().all()):
        raise SolverError(
            f"no value was found for {'edit ' + ', '.join(lost[:5]) if lost else 'an edit'}: its loss is not finite; "
            "nothing of this batch was written. Lower editor.lr or editor.clamp, or load the model in float32"
        )


def outcomes_of(batch: Sequence[Edit], values: Values, written: Sequence[Written], left: Tensor) -> list[EditOutcome]:
    """The outcome of every edit, with the figures of its value and of the blocks that were written.

    Args:
        batch: n edits.
        values: What was found for them.
        written: One for each block.
        left: (n,) length of the residual that is left at the bare prompt.
    """
    outcomes = []
    for i, edit in enumerate(batch):
        details = {
            "steps": float(values.steps[i]),
            "value_loss": values.loss[i],
            "value_norm": float(values.change[i].norm()),
            "residual": float(written[-1].asked[i]),
            "residual_predicted": float(written[-1].missed[i]),
            "residual_left": float(left[i]),
            "change": max(one.size for one in written),
        }
        known = [float(one.leverage[i]) for one in written if one.leverage is not None]
        details |= {"leverage": max(known)} if known else {}
        outcomes.append(EditOutcome(edit.id, True, values.nll[i], details=details))
    return outcomes


def _check_text(seen: Mapping[str, Any], ids: Mapping[str, str]) -> None:
    """Refuse to weigh edits of one stream by statistics of two texts; statistics not collected yet are not compared.

    Raises:
        AdapterError: The texts differ.
    """
    if seen["statistics"] and ids and seen["statistics"] != ids:
        raise AdapterError(
            f"the {seen['edits']} edits so far were written with statistics of another text; use the old "
            "one again (editor.text, editor.text_tokens, editor.bos), or begin a new stream"
        )


def _mean_keys(keys: Tensor, weights: Tensor) -> Tensor:
    """The keys of edits, (n, m), from those of their texts, (n, T, m)."""
    return (keys * weights[None, :, None]).sum(1)
