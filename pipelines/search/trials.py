"""The course of a search: which run comes next, what became of the others, who is best.

All of it follows from what the store holds, so it resumes where an earlier driver ended. `pipelines.search.trial_loop`
asks it; it knows nothing of Ray.
"""

from __future__ import annotations

import itertools
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from elder.pipelines.config.objective import better, objective_value
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.search import TuneConfig
from elder.pipelines.run.commits import Commit, RunState
from elder.pipelines.run.spec import Event, EventHandler
from elder.pipelines.search.optuna_tpe import Past
from elder.pipelines.search.records import (
    FAILED,
    FINISHED,
    PRUNED,
    Suggestion,
    TrialRecord,
    TuneState,
    repeat_name,
    seconds_of,
    trial_name,
)
from elder.pipelines.search.searchers import make_searcher


@dataclass(frozen=True)
class TrialRun:
    """One run that is to be done: a trial, or a repetition of a finalist.

    Attributes:
        name: Such as `t0003`.
        config: Its resolved config.
        guarded: Whether it may be stopped early.
    """

    name: str
    config: RunConfig
    guarded: bool = True


@dataclass(frozen=True)
class Repeats:
    """A finalist and its runs with other seeds, the trial itself first.

    Attributes:
        rank: From 1, by the objective of the trial.
        number: In the names of its runs: the rank, unless the search was given more trials after others were repeated.
        trial: The record of the trial.
        runs: Records of the others; those that have ended.
    """

    rank: int
    number: int
    trial: TrialRecord
    runs: Sequence[TrialRecord] = ()

    @property
    def objectives(self) -> list[float | None]:
        """Of every run, the trial's first; None for one that failed."""
        return [self.trial.objective, *(run.objective for run in self.runs)]

    @property
    def mean(self) -> float | None:
        """Over all runs; None when one of them failed."""
        values = [value for value in self.objectives if value is not None]
        return statistics.fmean(values) if len(values) == len(self.objectives) else None

    @property
    def spread(self) -> float | None:
        """Standard deviation over the runs; None for fewer than two."""
        values = [value for value in self.objectives if value is not None]
        return statistics.stdev(values) if len(values) > 1 else None


@dataclass
class Running:
    """A run that is under way, as far as its stages are known."""

    name: str
    config: RunConfig
    parameters: Mapping[str, Any]
    values: dict[int, float] = field(default_factory=dict)


class Trials:
    """Suggests, records, ranks. Not for several threads at once, but for `snapshot` and `config_of`.

    Args:
        config: The search.
        state: Its part of the store.
        opened: Called with the config of each run before it begins; opens its part of the store.
        stages: Stages of every run, by its seed.
        on_event: Receives `trial` and `note` events.
        concurrent: Runs at the same time.
    """

    def __init__(
        self,
        config: TuneConfig,
        state: TuneState,
        opened: Callable[[RunConfig], None],
        stages: Mapping[int, int],
        on_event: EventHandler = lambda event: None,
        concurrent: int = 1,
    ) -> None:
        self.config, self.state, self.concurrent = config, state, concurrent
        self.suggestions = dict(state.suggestions())
        self.records = state.records()
        self.running: dict[str, Running] = {}
        self._repeated = state.repetitions(config.space)
        self.total = config.tune.trials
        self.replayed = len(self.records)
        self._opened, self.stages, self._on_event = opened, stages, on_event
        self._search = make_searcher(
            config.tune.searcher, config.space, config.run.seed, self.total, config.tune.mode, config.possible
        )
        self._waiting: TrialRun | None = None
        self._lock = threading.RLock()  # the record in MLflow is written from another thread

    # ---- the runs -----------------------------------------------------------------------------------------------

    def has_work(self) -> bool:
        """Whether a run is left to do; asked before a cluster is."""
        try:
            self._waiting = self.next()
        except StopIteration:
            return False
        return True

    def next(self) -> TrialRun | None:
        """The next run, None when there is none now.

        Raises:
            StopIteration: There will be none any more.
        """
        if self._waiting is not None:
            work, self._waiting = self._waiting, None
            return work
        if len(self.running) >= self.concurrent:
            return None
        found = self._next_trial()
        if found is None and not self.running:
            found = self._next_repeat()
            if found is None:
                raise StopIteration
        elif found is None and not any(name.startswith("t") for name in self.running):
            found = self._next_repeat()
        if found is None:
            return None
        self._opened(found.config)
        with self._lock:
            self.running[found.name] = found
        return TrialRun(found.name, found.config, guarded=found.name.startswith("t"))

    def started(self, name: str) -> None:
        """A run has a worker and begins, or begins again."""
        self._tell(name, "running")

    def staged(self, name: str, stage: int, metrics: Mapping[str, float]) -> None:
        """A stage of a run is committed."""
        run = self.running.get(name)
        value = objective_value(metrics, self.config.metrics)
        if run is not None and value is not None:
            run.values[stage] = value
            self._tell(name, "running", stage=stage, objective=value)

    def ended(self, name: str, failure: str | None) -> None:
        """A run has ended, was stopped, or failed for a reason. What counts is what is committed."""
        run = self.running.get(name)
        if run is None:
            return
        commits = self.commits(name)
        record = self.state.finish(self._judge(run, commits, failure))
        if self.config.tune.keep == "last":
            self.state.forget_adapters(name)
        with self._lock:
            self.records[name] = record
            del self.running[name]
        self._tell(name, record.status, stage=len(commits) - 1, objective=record.objective, error=record.error)

    def stumbled(self, name: str, reason: str) -> None:
        """A run lost its worker and is taken up by another one."""
        self._on_event({"kind": "note", "text": f"{name}: {reason}"})

    def past(self) -> list[list[float]]:
        """Objectives after each stage of the trials that have ended."""
        return [self.values(record) for record in self._recorded_trials()]

    # ---- the outcome --------------------------------------------------------------------------------------------

    def ranking(self) -> list[TrialRecord]:
        """Finished trials, the best first; of equal ones the earlier."""
        found = [record for record in self._recorded_trials() if record.status == FINISHED]
        sign = -1 if self.config.tune.mode == "max" else 1
        return sorted(found, key=lambda record: sign * (record.objective or 0.0))

    def finalists(self) -> list[Repeats]:
        """The best few with the runs that repeat them, in the order of the ranking."""
        tune = self.config.tune
        best = self.ranking()[: tune.finalists if tune.seeds > 1 else 0]
        found: list[Repeats] = []
        for rank, trial in enumerate(best, 1):
            number = self._number(rank, trial.parameters, [one.number for one in found])
            runs = [self.records.get(repeat_name(number, i)) for i in range(1, tune.seeds)]
            found.append(Repeats(rank, number, trial, [run for run in runs if run is not None]))
        return found

    def winner(self) -> Repeats | None:
        """The finalist of the best mean; the best trial where none is repeated; None when no trial finished."""
        ranking = self.ranking()
        best: Repeats | None = None
        for one in self.finalists():
            mean = one.mean
            if mean is None:
                continue
            if best is None or better(mean, best.mean or 0.0, self.config.tune.mode):
                best = one
        return best or (Repeats(1, 1, ranking[0]) if ranking else None)

    def commits(self, name: str) -> list[Commit]:
        """What a run has committed."""
        return RunState(self.state.store, self.state.run_id(name)).commits()

    def config_of(self, name: str) -> RunConfig:
        """The config of a run that is recorded or running."""
        with self._lock:
            run, record = self.running.get(name), self.records.get(name)
        if run is not None:
            return run.config
        assert record is not None, name
        return self.config.trial_config(record.parameters, self.state.run_id(name), record.seed)

    def snapshot(self) -> tuple[dict[str, TrialRecord], list[str]]:
        """Records by name and the names of what is running, together; for another thread."""
        with self._lock:
            return dict(self.records), list(self.running)

    # ---- parts --------------------------------------------------------------------------------------------------

    def _next_trial(self) -> Running | None:
        for number in range(self.total):
            name = trial_name(number)
            if name in self.records or name in self.running:
                continue
            suggestion = self.suggestions.get(number) or self._suggest(number)
            if suggestion is None:
                self.total = number
                return None
            return self._run(name, suggestion.parameters, self.config.run.seed)
        return None

    def _suggest(self, number: int) -> Suggestion | None:
        point = self._search(number, self._past())
        if point is None:
            return None
        known = [int(record.name[1:]) for record in self._recorded_trials()]
        self.suggestions[number] = self.state.suggest(Suggestion(number, point, known))
        return self.suggestions[number]

    def _next_repeat(self) -> Running | None:
        seed = self.config.run.seed
        for one in self.finalists():
            for i in range(1, self.config.tune.seeds):
                name = repeat_name(one.number, i)
                if name not in self.records and name not in self.running:
                    self._repeated[one.number] = dict(one.trial.parameters)
                    return self._run(name, one.trial.parameters, seed + i)
        return None

    def _number(self, rank: int, parameters: Mapping[str, Any], others: Sequence[int]) -> int:
        """The number of a finalist's runs: that of runs which have tried this, else one of which there are none."""
        same = (number for number, tried in sorted(self._repeated.items()) if tried == parameters)
        free = (number for number in itertools.chain([rank], itertools.count(1)) if number not in self._repeated)
        return next(number for number in itertools.chain(same, free) if number not in others)

    def _run(self, name: str, parameters: Mapping[str, Any], seed: int) -> Running:
        return Running(name, self.config.trial_config(parameters, self.state.run_id(name), seed), parameters)

    def _judge(self, run: Running, commits: Sequence[Commit], failure: str | None) -> TrialRecord:
        value = objective_value(commits[-1].metrics, self.config.metrics) if commits else None
        finished = len(commits) >= self.stages[run.config.seed] and value is not None
        if failure is None and value is None:
            failure = "it ended without a stage that has an objective"
        failure = None if finished else failure  # a process may die after the last commit
        return TrialRecord(
            name=run.name,
            parameters=dict(run.parameters),
            seed=run.config.seed,
            status=FAILED if failure else FINISHED if finished else PRUNED,
            objective=None if failure else value,
            metrics=[dict(commit.metrics) for commit in commits],
            edits=[commit.edits for commit in commits],
            seconds=round(seconds_of(commits), 3),
            error=failure or "",
        )

    def _recorded_trials(self) -> list[TrialRecord]:
        return [self.records[name] for name in sorted(self.records) if name.startswith("t")]

    def _past(self) -> list[Past]:
        recorded = [Past(r.parameters, self.values(r), r.status) for r in self._recorded_trials()]
        going = [Past(run.parameters, list(run.values.values()), "running") for run in self.running.values()]
        return recorded + going

    def values(self, record: TrialRecord) -> list[float]:
        """The objective of a recorded run after each of its stages, as far as it has one."""
        values = [objective_value(metrics, self.config.metrics) for metrics in record.metrics]
        return [value for value in values if value is not None]

    def _tell(self, name: str, status: str, **more: Any) -> None:
        """An event about a run; `done` counts the trials that have ended, `of` all."""
        run, record = self.running.get(name), self.records.get(name)
        parameters = run.parameters if run is not None else record.parameters if record is not None else {}
        trials = len(self._recorded_trials())
        event: Event = {
            "kind": "trial", "name": name, "status": status, "parameters": dict(parameters), "done": trials,
            "of": self.total, "running": len(self.running), **more,
        }  # fmt: skip
        self._on_event(event)
