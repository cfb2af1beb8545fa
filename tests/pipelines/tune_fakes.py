"""Searches without a model: a score that follows from the parameters, and a runner without Ray."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elder.edit import Edit
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.search import TuneConfig, parse_tune_config
from elder.pipelines.run.broker import FAILED, STAGE
from elder.pipelines.run.spec import EventHandler, RunSpec
from elder.pipelines.run.stepping import LocalTrialHost
from elder.pipelines.search.driver import run_tune
from elder.pipelines.search.trials import Trials
from elder.runtime import LocalRuntime
from tests.pipelines.fakes import FakeEditor, FakeKit, FakeMeter, FakeReport, RecordingTracker, StoreAt, make_edits

EDITS = 10
SPACE = {"editor.lr": {"loguniform": [1e-5, 1e-1]}, "editor.rank": {"choice": [4, 8, 16]}}


def score(config: Any, stage: int) -> float:
    """Best at a rate of 1e-3 and a high rank; a little better with every stage; another one for every seed."""
    options = config.editor.options
    value = 0.9 - abs(math.log10(options["lr"]) + 3) / 4 + options["rank"] / 400 + stage / 100
    return max(0.0, round(value - 0.01 * math.sin(7 * config.seed), 6))


@dataclass
class ScoredMeter(FakeMeter):
    """Reliability is the score; locality is nearly perfect."""

    job: RunSpec | None = None

    def measure(
        self, edits: Sequence[Edit], parts: Sequence[str], progress: Any = None, so_far: Any = None
    ) -> FakeReport:
        report = super().measure(edits, parts, progress)
        assert self.job is not None
        held = report.metrics["reliability.generate"]  # 1 when every edit was applied exactly once
        value = held * score(self.job.config, len(edits) // self.job.config.stream.stage_size)
        report.metrics |= {"reliability.generate": value, "locality.generate": held * 0.99}
        return report


@dataclass(frozen=True)
class TuneKit(FakeKit):
    """Fake parts; every load of the base leaves a line in the file `loads`, if one is named."""

    loads: str = ""

    def base(self, job: RunSpec, runtime: Any) -> Any:
        if self.loads and runtime.rank == 0:
            with Path(self.loads).open("a") as file:
                file.write(f"{job.config.run_id}\n")
        return super().base(job, runtime)

    def meter(self, job: RunSpec, editor: FakeEditor) -> ScoredMeter:
        return ScoredMeter(editor, job=job)


def make_search(run_id: str = "s1", cluster: Mapping[str, Any] | None = None, **tune: Any) -> TuneConfig:
    """A search of ten edits in three stages."""
    values = {
        "name": "test",
        "run_id": run_id,
        "stream": {"stage_size": 4, "batch_size": 2},
        "editor": {"method": "elder"},
        "evaluation": {"protocols": ["generate"], "probes": 0},
        "cluster": {"workers": 1, "sharding": "none", **(cluster or {})},
        "tracking": {"mlflow": "unused.db", "retry_timeout_s": 0},
        "tune": {
            "space": SPACE, "trials": 6, "scheduler": "none", "objective": ["reliability", "locality"],
            "finalists": 2, "seeds": 2, **tune,
        },
    }  # fmt: skip
    return parse_tune_config(json.dumps(values), "search.yaml")


def search(
    root: Path,
    config: TuneConfig | None = None,
    *,
    runner: Any = None,
    kit: TuneKit | None = None,
    tracker: Callable[[], Any] = RecordingTracker,
    on_event: EventHandler = lambda event: None,
    out: Path | None = None,
) -> dict[str, Any]:
    """A search from here, in the store below `root`; without a runner it is done without Ray."""
    return run_tune(
        config or make_search(),
        StoreAt(str(root / "store")),
        tracker,
        on_event,
        out=out,
        edits=lambda run: make_edits(EDITS),
        kit=kit or TuneKit(),
        runner=runner or Inline(),
    )


class Stop(Exception):
    """The driver dies here."""


@dataclass
class Inline:
    """Does one run after another in this process; dies after so many stages."""

    stages_left: int = 10**9
    begun: int = 0

    def __call__(self, trials: Trials, job: Callable[[RunConfig], RunSpec], on_event: EventHandler) -> None:
        host = LocalTrialHost(LocalRuntime())
        while True:
            try:
                work = trials.next()
            except StopIteration:
                host.close()
                return
            assert work is not None
            self.begun += 1
            host.begin(job(work.config))
            trials.started(work.name)
            outcome = host.advance()
            while outcome.kind == STAGE:
                trials.staged(work.name, outcome.stage, outcome.metrics)
                self.stages_left -= 1
                if self.stages_left < 0:
                    host.close()
                    raise Stop
                outcome = host.advance()
            host.stop()
            trials.ended(work.name, outcome.error if outcome.kind == FAILED else None)
