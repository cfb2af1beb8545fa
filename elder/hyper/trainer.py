"""Meta-training of MEND and MALMEN, one block of facts a step, on a base model that stays as it is.

The pipeline chooses the facts and their order, decides when to validate and keeps checkpoints; a state holds all that
a continuation needs, so that a resumed training equals an undisturbed one. Knows nothing of stores or clusters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from elder.base import Base
from elder.edit import Edit
from elder.editors.weights.deltas import Deltas
from elder.errors import ConfigError, SolverError
from elder.hyper.fact_checks import check_facts
from elder.hyper.factors import Factors, Recorder, read_factors
from elder.hyper.facts import BlockRows, block_rows
from elder.hyper.maps import edited_maps, last_layers, map_sizes
from elder.hyper.meta import Applied, Trial, backward, changes_of, try_out
from elder.hyper.network import HyperNetwork
from elder.hyper.options import TrainingOptions
from elder.hyper.trained import save_trained
from elder.metrics.scoring import Pair, score
from elder.mixture.samples import Row
from elder.models.anatomy import anatomy, clone_sharing_weights
from elder.runtime import keep_alike
from elder.state import pack_json, unpack_json
from elder.state_checks import check_state, refuse
from elder.tokens import pad_id

LAYERS = {"mend": 3, "malmen": 6}  # how many of the last blocks are written
MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def make_trainer(method: str, base: Base, options: TrainingOptions) -> MetaTrainer:
    """A fresh trainer of `mend` or `malmen`. Collective under sharding.

    Raises:
        ConfigError: The method is not trained.
        ModelError: The model lacks the maps.
    """
    if method not in LAYERS:
        raise ConfigError(f"editor.method: '{method}' is not trained (known: {', '.join(LAYERS)})")
    return MetaTrainer(method, base, options)


class MetaTrainer:
    """See `make_trainer`.

    Attributes:
        options: With the layers filled in.
        steps_done: Blocks it was trained on.
        network: What is trained.
    """

    def __init__(self, method: str, base: Base, options: TrainingOptions) -> None:
        self.method, self.base = method, base
        self.model = clone_sharing_weights(base.model)
        parts = anatomy(self.model)
        layers = options.layers or last_layers(len(parts.blocks), LAYERS[method])
        self.options = options.replace(layers=tuple(layers))
        self.maps = edited_maps(parts, layers, options.modules)
        sizes = map_sizes(self.maps)
        self.deltas: Deltas[str] = Deltas(self.maps, sizes, base.runtime.device)
        self._recorder = Recorder(self.maps)
        self._pad = pad_id(base.tokenizer)
        base.runtime.prepare(self.model)
        style: Any = method
        self.network = HyperNetwork(sizes, style, options.rank, options.blocks, options.lr, options.seed)
        self.network.place(base.runtime.device)
        keep_alike(list(self.network.parameters()), base.runtime)  # normal numbers are drawn as the processor rounds
        self._draws = torch.Generator().manual_seed(options.seed)
        self._optimiser = self._new_optimiser()
        self.steps_done = 0

    # ---- what the pipeline calls --------------------------------------------------------------------------------

    def step(self, edits: Sequence[Edit]) -> dict[str, float]:
        """Train on one block; returns figures. Collective.

        Raises:
            DataError: A fact has no rephrase or no locality prompt.
            SolverError: The losses are not finite; networks, normalisers and draws were left as they were.
        """
        begin, o = time.perf_counter(), self.options
        check_facts(edits)
        with self._untouched_by_errors():
            rows = block_rows(self.base.texts, edits, o.terminator, self._draws, o.own_prompt)
            factors = self._factors(rows.edits)
            self.network.observe(factors)
            applied = changes_of(self.network, factors, self.base.runtime, o.chunk)
            trial = self._try(applied, rows, gradients=True)
            figures = self._figures(trial) | {"change": self._largest(applied)}
            if not all(map(torch.isfinite, torch.tensor(list(figures.values())))):
                raise SolverError(
                    f"the losses of a block are not finite ({figures}): lower editor.lr or editor.meta_lr"
                )
        backward(self.network, factors, applied, trial.gradients, self.base.runtime, o.chunk)
        self.steps_done += 1
        norm = 0.0
        if self.steps_done % o.accumulate == 0:
            norm = float(torch.nn.utils.clip_grad_norm_(self.network.parameters(), o.clip))
            self._optimiser.step()
            self._optimiser.zero_grad(set_to_none=True)
        keep_alike(self._replicated(), self.base.runtime)
        return figures | {"gradient_norm": norm, "seconds": time.perf_counter() - begin}

    @torch.no_grad()
    def validate(self, edits: Sequence[Edit], block_size: int | None = None) -> dict[str, float]:
        """Apply blocks, measure each, take it back; figures as means over the facts. Collective; changes nothing.

        Raises:
            DataError: A fact has no rephrase or no locality prompt.
        """
        check_facts(edits)
        size = block_size or len(edits)
        parts = [list(edits[begin : begin + size]) for begin in range(0, len(edits), size)]
        found = [(self._measure(part), len(part)) for part in parts]
        return {name: sum(f[name] * n for f, n in found) / len(edits) for name in found[0][0]}

    def state_dict(self) -> dict[str, Tensor]:
        """Networks, normalisers, Adam's moments, gradients not used yet, RNG and counter, on the CPU."""
        state = self.network.full_state()
        for name, parameter in self.network.named_parameters():
            grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            state[f"pending.{name}"] = grad.detach().cpu().clone()
            for entry in MOMENTS:
                state[f"adam.{name}.{entry}"] = self._optimiser.state[parameter][entry].cpu().clone()
        state["rng"] = self._draws.get_state()
        state["cursor"] = pack_json({"method": self.method, "steps": self.steps_done})
        return state

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take over a state; all is checked before.

        Raises:
            AdapterError: It belongs to another method, model or options; nothing was changed.
        """
        check_state(state, self.state_dict(), ("cursor",), ("cursor",))
        cursor = unpack_json(state["cursor"])
        known = (
            isinstance(cursor, dict) and cursor.get("method") == self.method and isinstance(cursor.get("steps"), int)
        )
        refuse([] if known else [f"'cursor' must count the steps of {self.method}"])
        self.network.take_state(state)
        self.steps_done = cursor["steps"]
        waiting = self.steps_done % self.options.accumulate != 0
        for name, parameter in self.network.named_parameters():
            parameter.grad = state[f"pending.{name}"].to(parameter, copy=True) if waiting else None
            for entry in MOMENTS:
                own = self._optimiser.state[parameter][entry]
                own.copy_(state[f"adam.{name}.{entry}"])
        self._draws.set_state(state["rng"].cpu())

    def save(self, directory: str | Path, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Write the trained editor (networks and normalisers); on rank 0, after all have asked for `base.digest`."""
        state = self.network.full_state()
        return save_trained(directory, self.method, self.options, self.base, state, self.steps_done, extra)

    # ---- parts --------------------------------------------------------------------------------------------------

    def _new_optimiser(self) -> torch.optim.Adam:
        o = self.options
        scalars = [p for n, p in self.network.named_parameters() if n.startswith("log_")]
        others = [p for n, p in self.network.named_parameters() if not n.startswith("log_")]
        rate = o.meta_lr if o.scalar_lr is None else o.scalar_lr
        adam = torch.optim.Adam([{"params": others, "lr": o.meta_lr}, {"params": scalars, "lr": rate}])
        for parameter in self.network.parameters():  # as Adam would at its first step, so that states are alike
            zeros = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            adam.state[parameter] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}
        return adam

    @contextmanager
    def _untouched_by_errors(self) -> Iterator[None]:
        """Normalisers and draws as they were, if what is done here raises."""
        seen = {shape: replace(moments) for shape, moments in self.network.normalisers.items()}
        draws = self._draws.get_state()
        try:
            yield
        except BaseException:
            self.network.normalisers = seen
            self._draws.set_state(draws)
            raise

    def _replicated(self) -> list[Tensor]:
        """All tensors that every rank computes alone, from the same gradients and factors."""
        moments = [t for m in self.network.normalisers.values() for t in (m.mean, m.squares)]
        if self.steps_done % self.options.accumulate:
            return moments
        adam = [self._optimiser.state[p][entry] for p in self.network.parameters() for entry in MOMENTS]
        return [*moments, *self.network.parameters(), *adam]

    def _factors(self, rows: Sequence[Row]) -> dict[str, Factors]:
        o = self.options
        return read_factors(
            self.model, self._recorder, rows, self.base.runtime, self._pad, o.tokens, o.loss, o.micro_batch
        )[0]

    def _try(self, applied: Mapping[str, Applied], rows: BlockRows, gradients: bool) -> Trial:
        o = self.options
        return try_out(
            self.model,
            self._recorder,
            self.deltas,
            {name: one.dense for name, one in applied.items()},
            rows.equivalents,
            rows.unrelated,
            self.base.runtime,
            self._pad,
            o.micro_batch,
            (o.edit_coef, o.loc_coef),
            gradients,
        )

    def _figures(self, trial: Trial) -> dict[str, float]:
        loss = self.options.edit_coef * trial.edit_loss + self.options.loc_coef * trial.locality_loss
        return {"loss": loss, "edit_loss": trial.edit_loss, "locality_loss": trial.locality_loss}

    def _largest(self, applied: Mapping[str, Applied]) -> float:
        sizes = []
        for name, one in applied.items():
            weight: Any = self.maps[name].weight
            with self.base.runtime.gathered([weight]):
                sizes.append(float(one.dense.norm()) / float(weight.detach().float().norm()))
        return max(sizes)

    def _measure(self, edits: Sequence[Edit]) -> dict[str, float]:
        rows = block_rows(self.base.texts, edits, self.options.terminator, None)
        applied = changes_of(self.network, self._factors(rows.edits), self.base.runtime, self.options.chunk)
        figures = self._figures(self._try(applied, rows, gradients=False))
        # A probe without an answer is judged by the answer of the unedited model.
        probes = [Row(row.prompt, row.answer or (self.base.texts.end_id or 0,), 0, "") for row in rows.unrelated]
        with self.deltas.disabled():
            before = self._predicted(probes)
        with self.deltas.trying({name: one.dense for name, one in applied.items()}):
            edited, general, after = (self._predicted(part) for part in (rows.edits, rows.equivalents, probes))
        wanted = [row.answer or own for row, own in zip(rows.unrelated, before, strict=True)]
        return figures | {
            "ES": _accuracy(edited, [row.answer for row in rows.edits]),
            "GS": _accuracy(general, [row.answer for row in rows.equivalents]),
            "LS": _accuracy(after, wanted),
            "agreement": _accuracy(after, before),
        }

    def _predicted(self, rows: Sequence[Row]) -> list[tuple[int, ...]]:
        pairs = [Pair(row.prompt, row.answer) for row in rows]
        scores = score(self.model, pairs, self.options.micro_batch, self.base.runtime, self._pad)
        return [one.argmax for one in scores]


def _accuracy(found: Sequence[tuple[int, ...]], wanted: Sequence[tuple[int, ...]]) -> float:
    """Share of right tokens of each example, averaged over examples."""
    return fmean(fmean(a == b for a, b in zip(s, w, strict=True)) for s, w in zip(found, wanted, strict=True))
