"""A search from its config to the best one: trials, repetitions of the best, record, report.

It receives a store and trackers by protocol, like `pipelines.run.driver`. What it knows is in the store, so the same
call again resumes where an earlier one was cut off. Must not know boto3, mlflow or the command line.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from elder.edit import Edit, dataset_digest
from elder.errors import ConfigError, ElderError
from elder.pipelines.config.objective import quantity_of
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.search import TuneConfig
from elder.pipelines.planning.sharding import decide_sharding
from elder.pipelines.protocols import Store, Tracker
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.inputs import read_ability, read_stream, read_text
from elder.pipelines.run.result import make_result
from elder.pipelines.run.retry import RetryingStore
from elder.pipelines.run.spec import Event, EventHandler, RunSpec, WorkerParts
from elder.pipelines.run.stage_plan import split
from elder.pipelines.run.trained import named_trained, pin_trained
from elder.pipelines.search.publisher import TunePublisher
from elder.pipelines.search.records import TuneState
from elder.pipelines.search.result import best_config, summary
from elder.pipelines.search.trial_loop import run_on_cluster
from elder.pipelines.search.trials import Trials

NEEDED: Mapping[str, Callable[[Edit], Sequence[Any]]] = {
    "generalization": lambda edit: edit.heldout_rephrases,
    "locality": lambda edit: edit.locality,
    "locality_answer": lambda edit: [probe for probe in edit.locality if probe.answer is not None],
    "portability": lambda edit: edit.portability,
}
"""What an edit must have for a quantity to be measured on it."""


Runner = Callable[[Trials, Callable[[RunConfig], RunSpec], EventHandler], None]
"""Does the runs of a search: (trials, the run of a config, where notes go)."""


def run_tune(
    config: TuneConfig,
    store_factory: Callable[[], Store],
    tracker_factory: Callable[[], Tracker],
    on_event: EventHandler = lambda event: None,
    *,
    cache_dir: Path | None = None,
    out: Path | None = None,
    edits: Callable[[RunConfig], Sequence[Edit]] | None = None,
    tags: Mapping[str, str] | None = None,
    kit: WorkerParts | None = None,
    runner: Runner | None = None,
) -> dict[str, Any]:
    """Search for the best config, from wherever an earlier call came to.

    Args:
        config: The resolved search; a run id that exists is continued, if config and edits are the same.
        store_factory: Picklable; makes the store, here and inside workers.
        tracker_factory: Makes a tracker for the search and one for its trials.
        on_event: Receives `phase`, `trial` and `note` events for a display; called from this thread and others.
        cache_dir: Where the embedded model is kept.
        out: Receives best.yaml, records.jsonl, report and plots; default: only the store does.
        edits: The stream for a config (its seed may choose the facts); default: the config's data, checked.
        tags: Further tags of the tracked search, such as the id of a Ray job.
        kit: How workers make their parts; for tests.
        runner: Does the runs; default: the Ray cluster of the config.

    Returns:
        The result as docs/tune.md describes it. A search that has ended returns it at once.

    Raises:
        InputError: Config, data or model are wrong, or the id belongs to another search; nothing was started.
        UnreachableError: Cluster, store or tracker does not answer; what has ended is recorded.
        ElderError: No trial came to its end.
    """
    search = _Search(config, store_factory, tracker_factory, on_event, cache_dir, out, edits, tags or {}, kit)
    return search.run(runner or run_on_cluster)


class _Search:
    """One call of `run_tune`."""

    def __init__(
        self,
        config: TuneConfig,
        store_factory: Callable[[], Store],
        tracker_factory: Callable[[], Tracker],
        on_event: EventHandler,
        cache_dir: Path | None,
        out: Path | None,
        edits: Callable[[RunConfig], Sequence[Edit]] | None,
        tags: Mapping[str, str],
        kit: WorkerParts | None,
    ) -> None:
        self.config, self.on_event, self.out, self.begun = config, on_event, out, time.time()
        read = edits or (lambda run: read_stream(run, cache_dir))
        seeds = config.tune.seeds if config.tune.finalists else 1
        self.streams = {seed: tuple(read(config.run.replace(seed=seed))) for seed in _seeds(config.run.seed, seeds)}
        check_measurable(config, self.streams[config.run.seed])
        store = RetryingStore(store_factory(), config.run.tracking.retry_timeout_s, self._note)
        self.state = TuneState(store, config.tune_id)
        pin = pin_trained(config.run, store, (self.state.record() or {}).get("trained"))  # once for all trials
        self._shared = RunSpec(
            config=config.run,
            edits=(),
            store_factory=store_factory,
            sharding=decide_sharding(config.run),
            cache_dir=cache_dir,
            perplexity_text=read_text(config.run),
            ability=read_ability(config.run, cache_dir),
            kit=kit or WorkerParts(),
        )
        self._trained = {named_trained(config.run): pin}
        self.state.open(
            config, self._digest(), len(self.streams[config.run.seed]), None if pin is None else pin.to_dict()
        )
        stream = config.run.stream
        self.stages = {s: len(split(len(e), stream.stage_size, stream.batch_size)) for s, e in self.streams.items()}
        self.trials = Trials(config, self.state, self._open, self.stages, self._hear)
        self.publisher = TunePublisher(self.trials, tracker_factory, self._dataset(), tags, self._note)

    def run(self, runner: Runner) -> dict[str, Any]:
        """Trials, then their record."""
        finished = self.state.result()
        if finished is not None:
            return finished
        self.publisher.start()
        try:
            if self.trials.replayed:
                self._note(f"{self.trials.replayed} runs of this search have ended before and are not run again")
            if self.trials.has_work():
                self.on_event({"kind": "phase", "name": "start"})
                runner(self.trials, self._job, self.on_event)
            return self._close()
        except KeyboardInterrupt:
            self.publisher.abandon("KILLED")
            raise
        except BaseException:
            self.publisher.abandon("FAILED")
            raise

    def _close(self) -> dict[str, Any]:
        winner = self.trials.winner()
        if winner is None:
            raise ElderError(_nothing_finished(self.trials))
        best = best_config(self.trials, winner)
        self.state.store.put(self.state.key("best.yaml"), best.encode())
        self.publisher.complete()
        registered = self.publisher.register(winner.trial.name)
        timing = {"wall_s": round(time.time() - self.begun, 3)}
        result = summary(self.trials, winner, f"{self.state.store.uri.rstrip('/')}/{self.state.key('best.yaml')}",
                         registered, timing)  # fmt: skip
        self._report(result, best)
        self.publisher.finish(result)
        self.state.close(result)
        return result

    def _report(self, result: Mapping[str, Any], best: str) -> None:
        """Write the report beside the records, in the store, in MLflow and where the user asked for it."""
        from elder.pipelines.search.report import write_tune_report

        with tempfile.TemporaryDirectory() as folder:
            directory = self.out or Path(folder)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "best.yaml").write_text(best, encoding="utf-8")
            (directory / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
            lines = [json.dumps(r.to_dict(), ensure_ascii=False) for _, r in sorted(self.trials.records.items())]
            (directory / "records.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            files = ["best.yaml", "result.json", "records.jsonl"]
            files += write_tune_report(directory, result, self.config.space, self.config.dump_yaml())
            for name in files:
                self.state.store.put(self.state.key(f"report/{name}"), directory / name)
                self.publisher.artifact(directory / name, name)

    def _job(self, run: RunConfig) -> RunSpec:
        """A run as workers get it."""
        trained = self._trained.get(named_trained(run))
        return replace(self._shared, config=run, edits=self.streams[run.seed], trained=trained)

    def _open(self, run: RunConfig) -> None:
        """A run's own part of the store."""
        job = self._job(run)
        trained = None if job.trained is None else job.trained.to_dict()
        RunState(self.state.store, run.run_id).open(run, job.dataset, len(job.edits), trained)

    def _hear(self, event: Event) -> None:
        """Pass an event on; what it changes is logged in the background."""
        if event["kind"] == "trial":
            if event["status"] == "finished":
                self._finish(str(event["name"]))
            self.publisher.nudge()
        self.on_event(event)

    def _finish(self, name: str) -> None:
        """A trial that came to its end is a finished run: `elder edit` with its config and id answers at once."""
        job = self._job(self.trials.config_of(name))
        state = RunState(self.state.store, job.config.run_id)
        state.finish(make_result(job, state))

    def _digest(self) -> str:
        """Over the streams of all seeds; that of the only one where there is one."""
        digests = [dataset_digest(edits) for edits in self.streams.values()]
        return digests[0] if len(set(digests)) == 1 else "+".join(digest[:16] for digest in digests)

    def _dataset(self) -> dict[str, Any]:
        data, edits = self.config.run.data, self.streams[self.config.run.seed]
        digest = dataset_digest(edits)
        return {"name": data.source, "digest": digest, "source": data.path or data.source, "count": len(edits)}

    def _note(self, text: str) -> None:
        with suppress(Exception):
            self.on_event({"kind": "note", "text": text})


def check_measurable(config: TuneConfig, edits: Sequence[Edit]) -> None:
    """Find out before the work that the data have no prompts for a part of the objective.

    Raises:
        ConfigError: Every such part.
    """
    missing = [
        name
        for name in config.metrics
        if (need := NEEDED.get(quantity_of(name))) is not None and not any(need(edit) for edit in edits)
    ]
    if missing:
        raise ConfigError(
            f"tune.objective: {', '.join(missing)} cannot be measured: no edit of {config.run.data.source} has "
            "prompts for it; name other metrics, or give data that have them"
        )


def _seeds(first: int, count: int) -> range:
    return range(first, first + count)


def _nothing_finished(trials: Trials) -> str:
    """The first reasons, when no trial came to its end."""
    failed = [record for _, record in sorted(trials.records.items()) if record.error]
    lines = [f"  {record.name}: {record.error.splitlines()[0]}" for record in failed[:3]]
    return "\n".join([f"no trial came to its end ({len(failed)} failed):", *lines])
