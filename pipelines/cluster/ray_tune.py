"""Runs trials under Ray Tune. The one file that imports ray.tune.

Tune places trials on the cluster, keeps their actors (and so the base model) from trial to trial, asks the scheduler
behind every stage, and starts an actor again that died. What is tried and what came of it is decided and
recorded elsewhere (`pipelines.search.trials`): Tune's own files are thrown away.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ray
from ray import tune
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler
from ray.tune.search import Searcher

from elder.device import pick_device
from elder.edit import Edit
from elder.errors import ElderError
from elder.pipelines.cluster.ray_train import threads_of, worker_environment
from elder.pipelines.cluster.trial_source import TrialSource
from elder.pipelines.config.objective import objective_value, unmeasured
from elder.pipelines.config.run import ClusterConfig, RunConfig, parse_config
from elder.pipelines.protocols import Store
from elder.pipelines.run.spec import RunSpec, WorkerParts
from elder.pipelines.run.stepping import FAILED, STAGE, UNREACHABLE, LocalTrialHost, TrialHost
from elder.pipelines.run.trained import TrainedPin, named_trained
from elder.runtime import LocalRuntime

ENVIRONMENT = {
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in a config are relative to where the user stands
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C ends the search; its record is in the store
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # a failed trial has no objective
    "TUNE_GLOBAL_CHECKPOINT_S": "3600",
    "TUNE_WARN_INSUFFICENT_RESOURCE_THRESHOLD_S": "3600",  # the driver says what it waits for
    "RAY_AIR_NEW_OUTPUT": "0",
}
OWNER_BYTES = 2**20
OBJECTIVE, FAILURE, REFUSED = "objective", "failure", "refused"


@dataclass(frozen=True)
class SharedParts:
    """What all runs of a search have in common; shipped to the cluster once.

    Attributes:
        edits: The stream by the seed of a run.
        store_factory: Makes a `Store` inside a worker.
        sharding: `none`, `zero2` or `zero3`, decided.
        objective: Names of the metrics the objective is made of; empty where runs are not ranked.
        cache_dir: Where the embedded model is kept.
        perplexity_text: Text for the perplexity alarm.
        kit: How workers make their parts.
        configs_per_group: Runs after which an actor is replaced; None: never.
        trained: The trained editors that were found when the search began, by what `editor.trained` says.
    """

    edits: Mapping[int, Sequence[Edit]]
    store_factory: Callable[[], Store]
    sharding: str
    objective: tuple[str, ...]
    cache_dir: Path | None = None
    perplexity_text: str | None = None
    kit: WorkerParts = field(default_factory=WorkerParts)
    configs_per_group: int | None = None
    trained: Mapping[str, TrainedPin] = field(default_factory=dict)

    def job(self, config: RunConfig) -> RunSpec:
        """A run as it travels."""
        return RunSpec(
            config=config,
            edits=tuple(self.edits[config.seed]),
            store_factory=self.store_factory,
            sharding=self.sharding,
            cache_dir=self.cache_dir,
            perplexity_text=self.perplexity_text,
            kit=self.kit,
            trained=self.trained.get(named_trained(config) or ""),
        )


@dataclass(frozen=True)
class Asha:
    """Asynchronous successive halving.

    Attributes:
        stages: Stages of every run.
        grace: Stages that every run gets.
        reduction: About one run in so many goes on at each rung.
        mode: max or min.
    """

    stages: int
    grace: int
    reduction: float
    mode: str


def grouped(cluster: ClusterConfig, sharding: str) -> bool:
    """Whether a trial needs a worker group of its own; else the trial's actor is the worker."""
    return cluster.workers >= 2 or sharding == "zero3"


def run_trials(
    source: TrialSource, shared: SharedParts, cluster: ClusterConfig, asha: Asha | None, resident: bool = True
) -> None:
    """Do what a source asks for, until it stops. A Ray connection must be there.

    Args:
        source: Decides and hears.
        shared: What all runs have in common.
        cluster: Workers of each trial, and how often an actor may die.
        asha: Stops runs between stages; None: all go to their end.
        resident: Whether actors and base models stay from run to run.

    Raises:
        ElderError: Ray Tune itself failed, or what `source` raised.
    """
    storage = tempfile.mkdtemp(prefix="elder-tune-")
    hearing = _SearchAdapter(source)
    actor = tune.with_parameters(TrialActor, shared=shared, cluster=cluster)
    tuner = tune.Tuner(
        tune.with_resources(actor, tune.PlacementGroupFactory([_own_resources(cluster, shared.sharding)])),
        tune_config=tune.TuneConfig(
            num_samples=-1, search_alg=hearing, scheduler=_scheduler(asha, source), reuse_actors=resident
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=storage,
            verbose=0,
            callbacks=[_Watcher(hearing)],
            failure_config=tune.FailureConfig(max_failures=cluster.max_failures),
            checkpoint_config=tune.CheckpointConfig(checkpoint_at_end=False),  # stages are committed in the store
        ),
    )
    try:
        with _environment():
            tuner.fit()
    except Exception as error:  # Tune wraps what callbacks raise in text; the error itself is kept here
        if hearing.error is None:
            raise ElderError(f"Ray Tune failed: {_last_line(error)}") from error
    finally:
        shutil.rmtree(storage, ignore_errors=True)
    if hearing.error is not None:
        raise hearing.error


def _own_resources(cluster: ClusterConfig, sharding: str) -> dict[str, float]:
    """What the actor of a trial itself takes; a group reserves its workers' part by itself."""
    if grouped(cluster, sharding):
        return {"memory": OWNER_BYTES}  # Tune wants something to be reserved; every core is for workers
    resources = {"CPU": cluster.cpus_per_worker}
    return resources | ({"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {})


class TrialActor(tune.Trainable):
    """The actor of a trial: one `step` is one stage. It outlives its trial, with the base model loaded."""

    def setup(self, config: dict[str, Any], shared: Any = None, cluster: Any = None) -> None:
        """Called once in a process, with the `SharedParts` and `ClusterConfig` of the search."""
        self.shared, self.done = shared, 0
        self.host = _make_host(cluster, shared.sharding)
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take up another run; False asks for a fresh process."""
        self.host.stop()
        self.done += 1
        if self.shared.configs_per_group is not None and self.done >= self.shared.configs_per_group:
            self.host.close()
            return False
        self._begin(new_config)
        return True

    def _begin(self, config: Mapping[str, Any]) -> None:
        job = self.shared.job(parse_config(config["config"], config["name"]))
        self.stages = len(job.stages)
        self.host.begin(job)

    def step(self) -> dict[str, Any]:
        """The next stage, or why there is none."""
        outcome = self.host.advance()
        if outcome.kind == UNREACHABLE:
            return {UNREACHABLE: outcome.error, "done": True}
        if outcome.kind == FAILED:
            return {FAILURE: outcome.error, REFUSED: outcome.refused, "done": True}
        if outcome.kind != STAGE:
            return {FAILURE: "it ended before its last stage", "done": True}
        value = objective_value(outcome.metrics, self.shared.objective) if self.shared.objective else 0.0
        if value is None:
            missing = ", ".join(unmeasured(outcome.metrics, self.shared.objective))
            return {FAILURE: f"tune.objective: {missing} is not there or no number after stage {outcome.stage}",
                    "done": True}  # fmt: skip
        found = {
            OBJECTIVE: value,
            "stage": outcome.stage,
            "metrics": json.dumps(dict(outcome.metrics)),
        }  # Tune would flatten them
        return {**found, "done": outcome.stage + 1 >= self.stages}

    def cleanup(self) -> None:
        """Called when the actor is to end."""
        self.host.close()


def _make_host(cluster: ClusterConfig, sharding: str) -> TrialHost:
    if grouped(cluster, sharding):
        from elder.pipelines.cluster.trial_group import GroupTrialHost

        return GroupTrialHost(cluster, worker_environment(cluster))
    import torch

    torch.set_num_threads(threads_of(cluster, neighbours=1))
    return LocalTrialHost(LocalRuntime(pick_device("auto" if cluster.gpus_per_worker else "cpu")))


class _Unsaved:
    """Tune writes pickles of what it is given, which nobody will read; the object itself stays the only one."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (str, ("not kept",))

    def __deepcopy__(self, memo: Any) -> Any:
        return self


class _SearchAdapter(_Unsaved, Searcher):
    """Between Tune's search algorithm and the source. Keeps the first error of the source and then asks for an end."""

    def __init__(self, source: TrialSource) -> None:
        super().__init__()
        self.source = source
        self.error: Exception | None = None
        self.names: dict[str, str] = {}

    def suggest(self, trial_id: str) -> Any:
        """A run as a Tune config."""
        work = self.guard(self._next)
        if work is None:
            return Searcher.FINISHED if self.error else None
        if work == Searcher.FINISHED:
            return work
        self.names[trial_id] = work.name
        return {"name": work.name, "config": work.config.dump_yaml(), "guarded": work.guarded}

    def _next(self) -> Any:
        try:
            return self.source.next()
        except StopIteration:
            return Searcher.FINISHED

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A stage."""
        if UNREACHABLE in result:
            self.guard(lambda: self.source.unreachable(result[UNREACHABLE]))
        elif OBJECTIVE in result:
            metrics = json.loads(result["metrics"])
            self.guard(lambda: self.source.staged(self.names[trial_id], result["stage"], metrics))

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The end of a trial; its process may have died for the last time."""
        if result and UNREACHABLE in result:
            self.guard(lambda: self.source.unreachable(result[UNREACHABLE]))
        elif not error:
            told = result or {}
            refused = bool(told.get(REFUSED, False))
            self.guard(lambda: self.source.ended(self.names[trial_id], told.get(FAILURE), refused))

    def guard(self, call: Callable[[], Any]) -> Any:
        """Call the source unless it has failed; an error of it ends the search and is raised behind it."""
        if self.error is not None:
            return None
        try:
            return call()
        except Exception as error:  # raised again by `run_trials`
            self.error = error
            return None

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the record is in the store."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: as above."""


class _Watcher(_Unsaved, tune.Callback):
    """What the search algorithm is not told: starts, and deaths of processes. Ends the experiment on an error."""

    def __init__(self, hearing: _SearchAdapter) -> None:
        self.hearing = hearing

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End at once what goes on when the source has failed."""
        if self.hearing.error is not None:
            raise self.hearing.error

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A trial has its actor."""
        self.hearing.guard(lambda: self.hearing.source.started(trial.config["name"]))

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its actor died and another one takes it up."""
        self.hearing.guard(lambda: self.hearing.source.stumbled(trial.config["name"], _death(trial)))

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its actor died once too often."""
        self.hearing.guard(lambda: self.hearing.source.ended(trial.config["name"], _death(trial)))


def _death(trial: Any) -> str:
    """Why Tune gave up on an actor."""
    with suppress(OSError, TypeError):
        lines = [line.strip() for line in Path(trial.error_file).read_text().splitlines() if line.strip()]
        return f"its process ended: {lines[-1]}"
    return "its process ended"


def _scheduler(asha: Asha | None, source: TrialSource) -> Any:
    if asha is None:
        return FIFOScheduler()  # type: ignore[no-untyped-call]
    return _Scheduler(asha, source.past())


class _Scheduler(AsyncHyperBandScheduler):
    """ASHA that remembers earlier runs and leaves repetitions of finalists alone."""

    def __init__(self, asha: Asha, past: Sequence[Sequence[float]]) -> None:
        super().__init__(
            metric=OBJECTIVE,
            mode=asha.mode,
            max_t=asha.stages,
            grace_period=min(asha.grace, asha.stages),
            reduction_factor=asha.reduction,
        )
        for number, values in enumerate(past):
            trial: Any = SimpleNamespace(trial_id=f"past-{number}", config={"guarded": True})
            self.on_trial_add(None, trial)
            results = [{OBJECTIVE: v, "training_iteration": i} for i, v in enumerate(values, 1)]
            for result in results:
                self.on_trial_result(None, trial, result)
            self.on_trial_complete(None, trial, results[-1] if results else {})

    def on_trial_add(self, tune_controller: Any, trial: Any) -> None:
        """A run begins."""
        if trial.config["guarded"]:
            super().on_trial_add(tune_controller, trial)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Whether a run may go on."""
        if not trial.config["guarded"]:
            return str(self.CONTINUE)
        return str(super().on_trial_result(tune_controller, trial, result))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """A run has ended."""
        if trial.config["guarded"]:
            super().on_trial_complete(tune_controller, trial, result)

    def on_trial_remove(self, tune_controller: Any, trial: Any) -> None:
        """A run is taken away."""
        if trial.config["guarded"]:
            super().on_trial_remove(tune_controller, trial)


@contextmanager
def _environment() -> Iterator[None]:
    """Settings that Tune reads from the driver's environment only; and its log lines, which say what events say."""
    before = {name: os.environ.get(name) for name in ENVIRONMENT}
    os.environ.update(ENVIRONMENT)
    logger = logging.getLogger("ray.tune")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def free_slots(cluster: ClusterConfig) -> int:
    """How many trials the cluster has room for as it stands, busy or not; may be 0 on one that grows."""
    present = dict(ray.cluster_resources())  # type: ignore[no-untyped-call]
    workers = max(1, cluster.workers)
    rooms = [int(present.get("CPU", 0.0) // (workers * cluster.cpus_per_worker))]
    if cluster.gpus_per_worker:
        rooms.append(int(present.get("GPU", 0.0) / (workers * cluster.gpus_per_worker)))
    return min(rooms)


def _last_line(error: BaseException) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip() if lines else type(error).__name__
