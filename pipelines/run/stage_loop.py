"""What every worker of a run does: apply, measure and commit stage after stage.

The same program on every rank (SPMD), against `elder.runtime.Runtime` and `Store`. A stage is a pure function
of the committed state before it and its edits, so a replay after a crash gives the same state. Must not know
Ray, DeepSpeed, MLflow or S3: `pipelines.cluster.ray_train` and `pipelines.run.local_runner` start it.
"""

from __future__ import annotations

import math
import random
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from elder.base import EditOutcome, Preparing, Receipt
from elder.errors import AdapterError, ElderError, GateError, RunTakenOver
from elder.metrics.retention import retention_summary
from elder.pipelines.run.commits import Commit, RunState, write_stage_files
from elder.pipelines.run.gates import refusals
from elder.pipelines.run.known import check_base
from elder.pipelines.run.retry import RetryingStore
from elder.pipelines.run.spec import EventHandler, RunSpec
from elder.pipelines.run.stage_plan import StagePlan
from elder.runtime import Runtime
from elder.state import state_digest

Proceed = Callable[[int, Mapping[str, float]], bool]
"""(stage, its metrics) -> whether the run may continue after this committed stage."""


@dataclass(frozen=True)
class Done:
    """What came of a stage before it is judged and committed.

    Attributes:
        receipt: What the editor says.
        digest: Of the state to be committed, the same on every rank.
        metrics: Over all measured edits.
        retention: The row of the retention matrix.
        rows: One for each measured edit.
        evaluate_s: Seconds of measuring.
    """

    receipt: Receipt
    digest: str
    metrics: dict[str, float]
    retention: list[float]
    rows: list[dict[str, Any]]
    evaluate_s: float


class StageLoop:
    """Loads the model once, then goes through the stages that are not committed yet."""

    def __init__(self, job: RunSpec, runtime: Runtime, report: EventHandler, proceed: Proceed | None = None) -> None:
        self.job, self.runtime, self.report, self.proceed = job, runtime, report, proceed
        patience = job.config.tracking.retry_timeout_s
        store = RetryingStore(job.store_factory(), patience, lambda text: report({"kind": "note", "text": text}))
        self.state = RunState(store, job.config.run_id)
        first = runtime.rank == 0
        # Rank 0 reads for all, so that all continue from the same stage whatever happens in between.
        known = runtime.gather_objects((uuid.uuid4().hex[:12], self.state.commits()) if first else None)
        self.attempt: str = known[0][0]
        self.commits: list[Commit] = list(known[0][1])

    def run(self) -> None:
        """Load, then edit, measure and commit every stage that is left."""
        todo = self.job.stages[len(self.commits) :]
        if not all(self._may_continue(commit) for commit in list(self.commits)) or not todo:
            return
        self._check_claim()
        self.report({"kind": "phase", "name": "load", "stage": todo[0].stage})
        begin = time.perf_counter()
        self._load()
        load_s = time.perf_counter() - begin
        for stage in todo:
            self._stage(stage, load_s)
            load_s = 0.0
            if not self._may_continue(self.commits[-1]):
                return

    def _may_continue(self, commit: Commit) -> bool:
        """Whether to continue after a committed stage: what rank 0 was told, on all ranks."""
        if self.proceed is None:
            return True
        answer = self.proceed(commit.stage, commit.metrics) if self.runtime.rank == 0 else None
        return bool(self.runtime.gather_objects(answer)[0])

    def _load(self) -> None:
        self.base = self.job.kit.base(self.job, self.runtime)
        self.base_record = {"id": self.base.source, "digest": self.base.digest}
        check_base(self.job, self.base.digest)
        self.editor = self.job.kit.editor(self.job, self.base)
        if self.commits:
            self._take_over(self.commits[-1])
        self._prepare()
        self.meter = self.job.kit.meter(self.job, self.editor)
        self.assessing = self.job.kit.ability(self.job, self.editor)

    def _prepare(self) -> None:
        """What the editor does once before its first edit, shown while it lasts."""
        if not isinstance(self.editor, Preparing):
            return

        def progress(done: int, of: int) -> None:
            self.report({"kind": "prepared", "done": done, "of": of})

        self.report({"kind": "phase", "name": "prepare", "stage": None})
        for note in self.editor.prepare(progress):
            self.report({"kind": "note", "text": note})

    def _take_over(self, commit: Commit) -> None:
        """Put the editor into the committed state and prove that it is there."""
        if commit.base["digest"] != self.base_record["digest"]:
            raise AdapterError(
                f"run '{self.state.run_id}' was begun on the base model {commit.base['id']} of digest "
                f"{commit.base['digest'][:12]}; the model found now has digest {self.base_record['digest'][:12]}. "
                "Give back the old weights (model.source, model.revision, model.dtype)"
            )
        with tempfile.TemporaryDirectory() as folder:
            directory = self.state.fetch(commit, Path(folder), self.job.kit.kept())
            self.job.kit.restore(directory, self.editor)
        found = state_digest(self.editor.state_dict())
        if found != commit.state_digest:
            raise AdapterError(
                f"stage {commit.stage} of run '{self.state.run_id}' was committed with state "
                f"{commit.state_digest[:12]}, but the editor has {found[:12]} after loading it: the method's "
                "load_state_dict loses something"
            )

    def _stage(self, stage: StagePlan, load_s: float) -> None:
        done = self._do(stage)
        receipt, metrics, rows = done.receipt, done.metrics, done.rows
        # Judged by rank 0 for all: a figure may differ in its last bit between ranks, and just meet a gate on one.
        found = refusals(self.job.config.gates, metrics, self.job.config.evaluation.protocols)
        refused = self.runtime.gather_objects(found)[0]
        if refused:
            self._refuse(stage, refused, metrics, rows)
        self.report({"kind": "phase", "name": "commit", "stage": stage.stage})
        commit = Commit(
            stage=stage.stage,
            attempt=self.attempt,
            first=stage.first,
            edits=stage.end,
            state_digest=done.digest,
            parent=self.commits[-1].state_digest if self.commits else "",
            config_digest=self.job.config.digest(),
            files={},
            base=self.base_record,
            metrics=metrics,
            retention=done.retention,
            losses=[[round(float(x), 6) for x in curve] for curve in receipt.losses],
            timing={"load_s": load_s, "edit_s": receipt.seconds, "evaluate_s": done.evaluate_s},
            world=self._world(),
        )
        self._commit(commit, rows)

    def _do(self, stage: StagePlan) -> Done:
        """Apply the edits of a stage, then measure."""
        self.report({"kind": "phase", "name": "edit", "stage": stage.stage})
        receipt = self._edit(stage)
        digest = self._agreed_digest()
        self.report({"kind": "phase", "name": "evaluate", "stage": stage.stage})
        begin = time.perf_counter()
        with self.runtime.kept(self.base.model):
            metrics, retention, rows = self._measure(stage, receipt)
        return Done(receipt, digest, metrics, retention, rows, time.perf_counter() - begin)

    def _edit(self, stage: StagePlan) -> Receipt:
        """Apply the edits of a stage, with all global randomness fixed by seed and stage."""

        def progress(done: int, of: int, loss: float) -> None:
            self.report({"kind": "batch", "stage": stage.stage, "done": done, "of": of, "loss": loss})

        with torch.random.fork_rng():
            torch.manual_seed(self.job.config.seed * 1_000_003 + stage.stage)
            with self.runtime.kept(self.base.model):
                receipt = self.editor.edit(list(self.job.edits[stage.first : stage.end]), progress)
        if self.runtime.rank == 0:
            for warning in receipt.warnings:
                self.report({"kind": "note", "text": f"after stage {stage.stage}: {warning}"})
        return receipt

    def _agreed_digest(self) -> str:
        """Digest of the state, the same on every rank: adapters are replicated, and replicas must not drift."""
        digests = self.runtime.gather_objects(state_digest(self.editor.state_dict()))
        if len(set(digests)) > 1:
            shown = ", ".join(digest[:12] for digest in digests)
            raise ElderError(
                f"the workers hold different adapters after the stage ({shown}); nothing was committed. "
                "Gradients were not summed the same way on all of them"
            )
        return str(digests[0])

    def _measure(
        self, stage: StagePlan, receipt: Receipt
    ) -> tuple[dict[str, float], list[float], list[dict[str, Any]]]:
        """Metrics over all measured edits, the retention row, and a row for each edit: from one measurement."""
        wanted, seed = self.job.config.evaluation, self.job.config.seed
        parts = (*wanted.parts, "perplexity")

        def progress(done: int, of: int) -> None:
            self.report({"kind": "evaluated", "stage": stage.stage, "done": done, "of": of})

        if self.job.validation is not None:
            held_out = self.meter.measure(self.job.validation, parts, progress)
            return held_out.metrics | receipt_figures([receipt]), [], held_out.rows
        chosen = measured_edits(self.job.stages, stage.stage, wanted.retention, wanted.retention_sample, seed)
        so_far = self.job.edits[: stage.end]
        found = self.meter.measure([self.job.edits[i] for i in chosen], parts, progress, so_far)
        size = self.job.config.stream.stage_size
        rows = [{"stage": i // size, "edit": i, **row} for i, row in zip(chosen, found.rows, strict=True)]
        if stage == self.job.stages[-1]:
            self._ask_before(rows)
        retention = retention_row(rows, f"reliability.{wanted.protocols[0]}", stage.stage)
        metrics = dict(found.metrics)
        if self.assessing is not None:
            metrics |= self.assessing.figures(progress)
        if retention:
            metrics |= retention_summary([*(list(commit.retention) for commit in self.commits), retention])
        for row in rows:
            if 0 <= row["edit"] - stage.first < len(receipt.outcomes):
                row |= outcome_columns(receipt.outcomes[row["edit"] - stage.first])
        return metrics | receipt_figures([receipt]), retention, rows

    def _ask_before(self, rows: Sequence[dict[str, Any]]) -> None:
        """At the end of a run: what the unedited model says to the first prompts, for the page that people read."""
        count = self.job.config.evaluation.probes
        if not count or "generate" not in self.job.config.evaluation.protocols:
            return
        with self.editor.disabled():
            before = self.meter.measure(self.job.edits[:count], ("reliability",)).rows
        for row, unedited in zip(rows, before, strict=False):
            row["before"] = unedited.get("reliability.generate.text")

    def _refuse(
        self, stage: StagePlan, refused: Sequence[str], metrics: Mapping[str, float], rows: Sequence[Mapping[str, Any]]
    ) -> None:
        """Leave the figures for whoever looks into it, and stop. The stage is not committed."""
        if self.runtime.rank == 0:
            self.report({"kind": "refused", "stage": stage.stage, "edits": stage.end, "metrics": dict(metrics)})
            with tempfile.TemporaryDirectory() as folder:
                self.state.upload(stage.stage, self.attempt, write_stage_files(Path(folder), rows, metrics))
        where = self.state.stage_key(stage.stage, self.attempt)
        raise GateError(
            "\n".join(
                [f"stage {stage.stage} (edits {stage.first} to {stage.end - 1}) was refused and not committed:"]
                + [f"  {line}" for line in refused]
                + [f"{stage.stage} stages stay committed; the refused stage's figures are under {where}/"]
            )
        )

    def _commit(self, commit: Commit, rows: Sequence[Mapping[str, Any]]) -> None:
        """Upload, then make visible. Every rank holds the whole adapter; rank 0 writes it and tells the others."""
        self._check_claim()
        if self.runtime.rank == 0:
            begin = time.perf_counter()
            extra = {"run_id": self.state.run_id, "stage": commit.stage, "config_digest": commit.config_digest}
            with tempfile.TemporaryDirectory() as folder:
                directory = Path(folder)
                self._save(directory, extra)
                write_stage_files(directory, rows, commit.metrics)
                files = self.state.upload(commit.stage, commit.attempt, sorted(directory.iterdir()))
            timing = {**commit.timing, "commit_s": time.perf_counter() - begin}
            now = datetime.now(UTC).isoformat(timespec="seconds")
            commit = self.state.commit(replace(commit, files=files, timing=timing, committed_at=now))
        commit = self.runtime.gather_objects(commit)[0]
        self.commits.append(commit)
        self.report(
            {"kind": "committed", "stage": commit.stage, "edits": commit.edits, "metrics": dict(commit.metrics)}
        )

    def _save(self, directory: Path, extra: Mapping[str, Any]) -> None:
        """Write what a stage leaves beside its figures."""
        self.job.kit.save(directory, self.editor, extra)

    def _check_claim(self) -> None:
        """Stop when another driver has taken the run over. Rank 0 asks for all, and all stop. Collective."""
        newer: RunTakenOver | None = None
        if self.runtime.rank == 0:
            try:
                self.state.drivers.check(self.job.claim)
            except RunTakenOver as error:
                newer = error
        newer = self.runtime.gather_objects(newer)[0]
        if newer is not None:
            raise newer

    def _world(self) -> dict[str, Any]:
        return {"workers": self.runtime.world_size, "sharding": self.job.sharding, "torch": torch.__version__}


def measured_edits(stages: Sequence[StagePlan], now: int, retention: str, sample: int, seed: int) -> list[int]:
    """Numbers of the edits that are measured after a stage.

    Args:
        stages: All stages of the run.
        now: The stage that was just applied; it is always measured in full.
        retention: `all`: every edit so far. `sample`: a fixed sample of each earlier stage, the same at every
            later stage; after the last stage everything is measured all the same.
        sample: Size of that sample.
        seed: Seed of the run.
    """
    chosen: list[int] = []
    for stage in stages[: now + 1]:
        numbers = list(range(stage.first, stage.end))
        whole = retention == "all" or stage.stage == now or now == len(stages) - 1
        if not whole and len(numbers) > sample:
            numbers = sorted(random.Random(f"{seed}/{stage.stage}").sample(numbers, sample))
        chosen += numbers
    return chosen


def retention_row(rows: Sequence[Mapping[str, Any]], figure: str, now: int) -> list[float]:
    """Mean of a figure over the edits of stage 0, 1, ..., now; empty when it was not measured."""
    by_stage: list[list[float]] = [[] for _ in range(now + 1)]
    for row in rows:
        if row.get(figure) is not None:
            by_stage[row["stage"]].append(float(row[figure]))
    if not all(by_stage):
        return []
    return [fmean(values) for values in by_stage]


def outcome_columns(outcome: EditOutcome) -> dict[str, Any]:
    """What the editor says about an edit, for the row of that edit."""
    found = {"accepted": outcome.accepted, "final_loss": outcome.final_loss}
    return found | ({"note": outcome.note} if outcome.note else {})


def receipt_figures(receipts: Sequence[Receipt]) -> dict[str, float]:
    """What the editor says about itself, as means over the batches of a stage."""
    names = sorted({name for receipt in receipts for name in receipt.notes})
    figures = {f"editor.{n}": fmean(float(r.notes[n]) for r in receipts if n in r.notes) for n in names}
    outcomes = [outcome for receipt in receipts for outcome in receipt.outcomes]
    if outcomes:
        figures["edit.accepted"] = fmean(outcome.accepted for outcome in outcomes)
        figures["edit.final_loss"] = fmean(outcome.final_loss for outcome in outcomes)
    return {name: value for name, value in figures.items() if math.isfinite(value)}
