"""What a search leaves in its store beside the runs of its trials: what was tried, and what became of it.

A trial is a run of its own (`pipelines.run.commits`); here are the suggestion, written before it starts, and the
record, written when it has ended. Both are created once and never changed, so an interrupted search knows what was
done. Only the number of trials may grow. Knows nothing of Ray, searchers or trackers.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from elder.errors import AdapterError, ConfigError
from elder.pipelines.config.run import parse_config
from elder.pipelines.config.search import TuneConfig, not_continued, parse_tune_config
from elder.pipelines.protocols import Store
from elder.pipelines.run.commits import ADAPTER_FILES, Commit, RunState

FORMAT = 1
FINISHED, PRUNED, FAILED = "finished", "pruned", "failed"


@dataclass(frozen=True)
class Suggestion:
    """What a trial is to try.

    Attributes:
        number: Number of the trial, from 0.
        parameters: Dotted config key -> value.
        known: Trials whose records the searcher knew when it suggested this one.
    """

    number: int
    parameters: Mapping[str, Any]
    known: Sequence[int] = ()


@dataclass(frozen=True)
class TrialRecord:
    """What became of a trial, or of a repetition of a finalist.

    Attributes:
        name: `t0003`, or `f01-s2` for the run of the first finalist with the base seed + 2.
        parameters: What was tried.
        seed: The seed of the run.
        status: `finished`, `pruned` (stopped between stages) or `failed`.
        objective: After its last stage; None when it failed or has none.
        metrics: Of every committed stage.
        edits: Edits applied after each of these stages.
        seconds: Loading, editing, measuring and committing, over all its stages.
        error: Why it failed.
    """

    name: str
    parameters: Mapping[str, Any]
    seed: int
    status: str
    objective: float | None
    metrics: Sequence[Mapping[str, float]] = ()
    edits: Sequence[int] = ()
    seconds: float = 0.0
    error: str = ""
    ended: float = field(default_factory=time.time, compare=False)

    @property
    def final(self) -> Mapping[str, float]:
        """Metrics after the last committed stage."""
        return self.metrics[-1] if self.metrics else {}

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


class TuneState:
    """The part of a store that belongs to one search.

    Args:
        store: Any store.
        tune_id: The search.
    """

    def __init__(self, store: Store, tune_id: str) -> None:
        self.store, self.tune_id, self.root = store, tune_id, f"tunes/{tune_id}"

    def key(self, name: str) -> str:
        """Key of a file of the search."""
        return f"{self.root}/{name}"

    def run_id(self, name: str) -> str:
        """The run of a trial or repetition, such as `ID-t0003`."""
        return f"{self.tune_id}-{name}"

    def open(
        self, config: TuneConfig, dataset_digest: str, edits: int, trained: Mapping[str, Any] | None = None
    ) -> None:
        """Write down what the search is at its first start; at later starts, check that it is the same.

        A search may be given more trials than before, whether it has ended or not; that is written down too.

        Raises:
            ConfigError: It exists with another config, other edits or another trained editor; every difference is
                named.
        """
        record: dict[str, Any] = {
            "format": FORMAT, "config_digest": config.digest(), "dataset_digest": dataset_digest, "edits": edits
        }  # fmt: skip
        if trained is not None:
            record["trained"] = dict(trained)
        if not self.store.create(self.key("config.yaml"), config.dump_yaml().encode()):
            changes = not_continued(self._config(), config)
            if changes:
                head = f"search '{self.tune_id}' exists with another config; undo these changes to continue it, or "
                raise ConfigError([f"{head}leave run_id out to start a new one:", *(f"  {line}" for line in changes)])
        if not self.store.create(self.key("tune.json"), _json(record)):
            known = self.record() or {}
            before_data = known["dataset_digest"]
            if before_data != dataset_digest:
                raise ConfigError(
                    f"search '{self.tune_id}' was started with other edits (digest {before_data[:12]}, now "
                    f"{dataset_digest[:12]}); give back the old data, or leave run_id out to start a new one"
                )
            if trained and known.get("trained") and known["trained"]["digest"] != trained["digest"]:
                raise ConfigError(
                    f"editor.trained: search '{self.tune_id}' was started with another trained editor (digest "
                    f"{known['trained']['digest'][:12]}, now {trained['digest'][:12]}); give back the old one, or "
                    "leave run_id out to start a new one"
                )
        if self._config().digest() != config.digest():  # the config last: what broke off before it is done again
            self.store.put(self.key("tune.json"), _json({**(self.record() or {}), "config_digest": config.digest()}))
            self.store.put(self.key("config.yaml"), config.dump_yaml().encode())

    def record(self) -> dict[str, Any] | None:
        """What was written down at the first start; None before it."""
        try:
            return self._read(self.key("tune.json"))
        except KeyError:
            return None

    def suggest(self, suggestion: Suggestion) -> Suggestion:
        """Write a suggestion down; returns the one that was written first."""
        key = self.key(f"trials/{suggestion.number:04d}.json")
        if self.store.create(key, _json(asdict(suggestion))):
            return suggestion
        return Suggestion(**self._read(key))

    def suggestions(self) -> dict[int, Suggestion]:
        """All suggestions by number."""
        found = [Suggestion(**self._read(key)) for key in self.store.list(self.key("trials/"))]
        return {suggestion.number: suggestion for suggestion in found}

    def finish(self, record: TrialRecord) -> TrialRecord:
        """Write a record down; returns the one that was written first."""
        key = self.key(f"results/{record.name.removeprefix('t')}.json")
        if self.store.create(key, _json(record.to_dict())):
            return record
        return TrialRecord(**self._read(key))

    def records(self) -> dict[str, TrialRecord]:
        """All records by name."""
        found = [TrialRecord(**self._read(key)) for key in self.store.list(self.key("results/"))]
        return {record.name: record for record in found}

    def repetitions(self, keys: Iterable[str]) -> dict[int, dict[str, Any]]:
        """What the runs that repeat finalists try, ended or not: number in their name -> value of each dotted key."""
        pattern = re.compile(rf"runs/{re.escape(self.run_id('f'))}(\d+)-s\d+/config\.yaml")
        found: dict[int, dict[str, Any]] = {}
        for key in self.store.list(f"runs/{self.run_id('f')}"):
            at = pattern.fullmatch(key)
            if at is not None and int(at[1]) not in found:
                values = parse_config(self.store.get(key).decode(), key).to_dict()
                named = ((name, *name.partition(".")[::2]) for name in keys)
                found[int(at[1])] = {name: values[section][option] for name, section, option in named}
        return found

    def result(self) -> dict[str, Any] | None:
        """The result of a search that has ended with as many trials as it has been given, or None."""
        try:
            found = dict(json.loads(self.store.get(self.key("result.json"))))
        except KeyError:
            return None
        known = (self.record() or {}).get("config_digest"), self._config().digest()  # another version may digest others
        return found if found["config_digest"] in known else None

    def close(self, result: Mapping[str, Any]) -> None:
        """Write the result down; the first one is kept, unless it was of fewer trials than the search has now."""
        if self.store.create(self.key("result.json"), _json(result)):
            return
        if self.result() is None and result["config_digest"] == self._config().digest():
            self.store.put(self.key("result.json"), _json(result))

    def _config(self) -> TuneConfig:
        """The config of the last start that changed it."""
        return parse_tune_config(self.store.get(self.key("config.yaml")).decode(), f"config of {self.tune_id}")

    def forget_adapters(self, name: str) -> None:
        """Delete the adapters of all stages of a run but its last; figures and commits stay."""
        state = RunState(self.store, self.run_id(name))
        for commit in state.commits()[:-1]:
            for file in ADAPTER_FILES:
                self.store.delete(state.stage_key(commit.stage, f"{commit.attempt}/{file}"))

    def _read(self, key: str) -> dict[str, Any]:
        try:
            return dict(json.loads(self.store.get(key)))
        except ValueError as error:
            raise AdapterError(f"{self.store.uri}: {key} is damaged: {error}") from error


def trial_name(number: int) -> str:
    """`t0003`."""
    return f"t{number:04d}"


def repeat_name(number: int, seed: int) -> str:
    """`f01-s2`: of the first finalist that was repeated, the run with the base seed + 2."""
    return f"f{number:02d}-s{seed}"


def seconds_of(commits: Sequence[Commit]) -> float:
    """What the stages took, whichever attempt did them."""
    return sum(sum(commit.timing.values()) for commit in commits)


def _json(value: Any) -> bytes:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False).encode()
