"""`data.known`: a run takes only the facts that its base model knows, and finds them out once.

The workers ask the model before the run is opened. What they find is kept with the run, so that a continuation and
every worker take the same facts, and beside the runs, so that other runs on this store need not ask again. Knows
nothing of Ray, nor of what counts as known (`elder.metrics.known`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from elder.base import Base
from elder.datasets.records import capped
from elder.edit import dataset_digest
from elder.errors import AdapterError, ConfigError, DataError, ElderError
from elder.pipelines.run.commits import NEW_RUN, RunState
from elder.pipelines.run.known_record import FORMAT, KnownRecord
from elder.pipelines.run.retry import RetryingStore
from elder.pipelines.run.spec import EventHandler, RunSpec
from elder.runtime import Runtime

RECORD = "known.json"
SHARED = "known"  # folder of the store that all runs share


def asks_first(job: RunSpec) -> bool:
    """Whether the base model is still to be asked which facts it knows."""
    return job.known is None and bool(getattr(job.config.data, "known", False))


def with_known_facts(
    job: RunSpec, state: RunState, runner: Callable[[RunSpec, EventHandler], None], report: EventHandler
) -> RunSpec:
    """The job with the facts that its base model knows, and with a line for each of the others.

    Args:
        job: With the whole stream; comes back as it is where `data.known` is false.
        state: Of the run; the model is asked if it does not say which facts are known.
        runner: Brings the question to the workers.
        report: Receives events.

    Raises:
        ConfigError: The run exists with another config or other edits.
        DataError: The model knows none of the facts.
        ElderError: As the runner.
    """
    if not asks_first(job):
        return job
    key = state.key(RECORD)
    record = KnownRecord.read(state.store, key)
    if record is None:
        state.check_same(job.config)
        runner(job, report)
        record = KnownRecord.read(state.store, key)
    if record is None:
        raise ElderError("the workers ended without an error, but did not say which facts the base model knows")
    if record.dataset != job.dataset:
        raise ConfigError(
            f"run '{state.run_id}' was started with other edits (of digest {record.dataset[:12]}, now {len(job.edits)} "
            f"of digest {job.dataset[:12]}); give back the old data to continue it, or {NEW_RUN}"
        )
    lines = _lines(job, record)
    if not record.kept:
        raise DataError([f"data.known: the base model knows none of the {record.asked} facts", *capped(lines)])
    text = f"data.known: the base model answers {len(record.kept)} of {record.asked} facts right; they are edited"
    report({"kind": "note", "text": text})
    return replace(job, edits=tuple(job.edits[i] for i in record.kept), known=record, unknown=tuple(lines))


def ask_base(job: RunSpec, runtime: Runtime, report: EventHandler) -> None:
    """Find out which facts the base model knows, and leave it in the store. Collective.

    Raises:
        ElderError: See `elder.pipelines.run.spec.WorkerParts.base`; or a record is damaged.
    """
    from elder.metrics.known import known_facts

    def progress(done: int, of: int) -> None:
        report({"kind": "prepared", "done": done, "of": of})

    first = runtime.rank == 0
    patience = job.config.tracking.retry_timeout_s
    store = RetryingStore(job.store_factory(), patience, lambda text: report({"kind": "note", "text": text}))
    own = RunState(store, job.config.run_id).key(RECORD)
    if runtime.gather_objects(store.exists(own) if first else None)[0]:
        return  # the workers were started again after it was written
    report({"kind": "phase", "name": "load", "stage": None})
    base = job.kit.base(job, runtime)
    shared = _shared_key(job, base)
    found = runtime.gather_objects(KnownRecord.read(store, shared) if first else None)[0]
    if found is None:
        report({"kind": "phase", "name": "known", "stage": None})
        wanted = job.config.evaluation
        facts = known_facts(
            _ready(base, runtime),
            job.edits,
            job.config.data.edits,
            wanted.max_new_tokens,
            wanted.batch_size,
            progress if first else None,
        )
        said = {str(index): text for index, text in facts.said.items()}
        found = KnownRecord(job.dataset, base.digest, facts.kept, said, facts.asked)
    if first:
        for key in (shared, own):
            store.create(key, found.to_json())
    runtime.barrier()


def _ready(base: Base, runtime: Runtime) -> Base:
    """The base with a model that can be run where it is sharded, as editors make theirs."""
    from elder.models.anatomy import clone_sharing_weights

    if not runtime.sharded:
        return base
    model = clone_sharing_weights(base.model)
    runtime.prepare(model)
    return replace(base, model=model)


def check_base(job: RunSpec, digest: str) -> None:
    """Whether the model that was asked is the one that is to be edited.

    Raises:
        AdapterError: It is another one.
    """
    if job.known is not None and job.known.base != digest:
        raise AdapterError(
            f"run '{job.config.run_id}' asked a base model of digest {job.known.base[:12]} which facts it knows; the "
            f"model found now has digest {digest[:12]}. Give back the old weights (model.source, model.revision, "
            f"model.dtype), or {NEW_RUN}"
        )


def _shared_key(job: RunSpec, base: Any) -> str:
    """Where the answer to the same question lies: the same stream, model, prompt form and limits."""
    data = job.config.data
    form = None if base.chat is None else [data.chat, data.system]
    said = [FORMAT, dataset_digest(job.edits), base.digest, form, data.edits, job.config.evaluation.max_new_tokens]
    return f"{SHARED}/{hashlib.sha256(json.dumps(said).encode()).hexdigest()}.json"


def _lines(job: RunSpec, record: KnownRecord) -> list[str]:
    """One line for each fact that the model does not know."""
    asked = ((job.edits[int(index)], text) for index, text in record.said.items())
    return [f"'{edit.prompt}' -> '{edit.ground_truth}': the model says '{text}'" for edit, text in asked]
