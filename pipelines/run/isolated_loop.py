"""Stages whose batches are independent: each is applied to the unedited model, measured right after, and taken back.

With batches of one these are the single edits of papers, with larger ones their batch editing. A stage is a pure
function of its edits alone; figures and rows are committed, adapters are not kept.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from elder.base import Receipt
from elder.edit import Edit
from elder.errors import AdapterError, ElderError
from elder.metrics.after_answer import loss_ratio
from elder.metrics.counterfact import harmonic_mean
from elder.pipelines.run.commits import Commit
from elder.pipelines.run.stage_loop import Done, StageLoop, outcome_columns, receipt_figures
from elder.pipelines.run.stage_plan import StagePlan
from elder.state import state_digest

SCORE, PARTS = "counterfact.S", ("counterfact.ES", "counterfact.PS", "counterfact.NS")


class IsolatedLoop(StageLoop):
    """As `StageLoop`, but nothing stays in the editor from batch to batch."""

    def _load(self) -> None:
        super()._load()
        self._fresh = {name: tensor.clone() for name, tensor in self.editor.state_dict().items()}
        self._fresh_digest = state_digest(self._fresh)
        self._rows: list[dict[str, Any]] = []
        if self.commits:  # rank 0 reads for all
            rows = self.state.read_rows(self.commits[-1]) if self.runtime.rank == 0 else None
            self._rows = list(self.runtime.gather_objects(rows)[0])

    def _take_over(self, commit: Commit) -> None:
        """Take over nothing but the base, which must be the same."""
        if commit.base["digest"] != self.base_record["digest"]:
            raise AdapterError(
                f"run '{self.state.run_id}' was begun on a base model of digest {commit.base['digest'][:12]}; the "
                f"model found now has digest {self.base_record['digest'][:12]}. Give back the old weights"
            )

    def _do(self, stage: StagePlan) -> Done:
        """Batch after batch: apply, measure, take back."""
        self.report({"kind": "phase", "name": "edit", "stage": stage.stage})
        size, receipts, digests, extras, evaluate_s = self.job.config.stream.batch_size, [], [], [], 0.0
        wanted, names = self.job.config.evaluation, set[str]()
        for begin in range(stage.first, stage.end, size):
            edits = list(self.job.edits[begin : min(begin + size, stage.end)])
            receipt = self._apply(edits)
            receipts.append(receipt)
            digests.append(self._agreed_digest())
            clock = time.perf_counter()
            found = self.meter.measure(edits, wanted.parts)
            evaluate_s += time.perf_counter() - clock
            extras.append((len(edits), found.metrics))
            names |= set(found.metrics)
            self._rows += self._batch_rows(stage, begin, receipt, found.rows)
            self._take_back()
            loss = receipt.outcomes[-1].final_loss if receipt.outcomes else math.nan
            done = begin + len(edits) - stage.first
            self.report(
                {"kind": "batch", "stage": stage.stage, "done": done, "of": stage.end - stage.first, "loss": loss}
            )
        receipt = joined(receipts)
        before = self.commits[-1] if self.commits else None
        metrics = totals(self._rows, names, extras, before)
        metrics |= receipt_figures(receipts)
        return Done(receipt, _over(digests), metrics, [], list(self._rows), evaluate_s)

    def _apply(self, edits: Sequence[Edit]) -> Receipt:
        """One batch, with the randomness of a run that holds nothing else."""
        with torch.random.fork_rng():
            torch.manual_seed(self.job.config.seed * 1_000_003)
            return self.editor.edit(list(edits))

    def _take_back(self) -> None:
        """Put the editor back, and prove it: a method whose state is not all of it would spoil the next batch."""
        self.editor.load_state_dict({name: tensor.clone() for name, tensor in self._fresh.items()})
        if state_digest(self.editor.state_dict()) != self._fresh_digest:
            raise ElderError(
                f"method '{self.job.config.editor.method}' is not as it was after its edits were taken back: its "
                "load_state_dict loses something, so its edits cannot be applied apart"
            )

    def _batch_rows(
        self, stage: StagePlan, begin: int, receipt: Receipt, rows: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        found = []
        for i, row in enumerate(rows):
            one = {"stage": stage.stage, "edit": begin + i, **row}
            if i < len(receipt.outcomes):
                one |= outcome_columns(receipt.outcomes[i])
            found.append(one)
        return found

    def _save(self, directory: Path, extra: Mapping[str, Any]) -> None:
        """Save nothing: there is no state to resume from."""


def totals(
    rows: Sequence[Mapping[str, Any]],
    names: set[str],
    extras: Sequence[tuple[int, Mapping[str, float]]],
    before: Commit | None,
) -> dict[str, float]:
    """Metrics over all edits so far, those of earlier stages included.

    Args:
        rows: Of all edits so far.
        names: What was measured.
        extras: (edits, metrics) of every batch of this stage, for figures that rows do not have.
        before: The stage before.
    """
    found: dict[str, float] = {}
    for name in sorted(names - {SCORE}):
        values = [float(row[name]) for row in rows if isinstance(row.get(name), int | float)]
        if not values:  # a figure of the batch as a whole: weighted by edits
            parts = [(count, metrics[name]) for count, metrics in extras if name in metrics]
            if before is not None and name in before.metrics:
                parts.append((before.edits, before.metrics[name]))
            found[name] = sum(count * value for count, value in parts) / sum(count for count, _ in parts)
        else:
            found[name] = fmean(values)
    scores = [found[name] for name in PARTS if name in found]
    if len(scores) == len(PARTS):
        found[SCORE] = harmonic_mean(scores)
    return found | loss_ratio(found)


def joined(receipts: Sequence[Receipt]) -> Receipt:
    """The receipts of the batches of a stage as one."""
    return Receipt(
        tuple(outcome for receipt in receipts for outcome in receipt.outcomes),
        tuple(curve for receipt in receipts for curve in receipt.losses),
        sum(receipt.seconds for receipt in receipts),
    )


def _over(digests: Sequence[str]) -> str:
    """One digest over the states that the batches of a stage left."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()
