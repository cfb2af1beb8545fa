"""One measured run of the pipeline, and its time taken apart.

Editing and measuring are what the run's own commits say; everything else is told apart by the driver's events and
by a tracker that looks at the clock.
"""

from __future__ import annotations

import json
import os
import statistics
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

PARTS = ("start", "load", "edit", "evaluate", "commit", "between", "closing")
HEAD = "seconds of the wall clock; MLflow logs beside the edits, so its time is not part of the sum"


@dataclass(frozen=True)
class Setting:
    """One run.

    Attributes:
        name: How the figures call it.
        model: Base model and edits, `world:small`.
        edits: Length of the stream.
        stage_size: Edits of a stage.
        workers: Ray workers; 0 is the process of the driver.
        options: Of the editor.
        sample: Edits of each earlier stage that are measured again; by nature this part grows with the stream.
    """

    name: str
    model: str
    edits: int
    stage_size: int
    workers: int
    options: Mapping[str, Any] = field(default_factory=dict)
    sample: int = 20

    @property
    def stages(self) -> int:
        """Number of stages."""
        return -(-self.edits // self.stage_size)

    def of(self, edits: int, stages: int, **changes: Any) -> Setting:
        """The same with another length and number of stages."""
        return replace(self, edits=edits, stage_size=-(-edits // stages), **changes)

    def text(self) -> str:
        """As an argument of a program."""
        return json.dumps(vars(self))

    def config(self) -> dict[str, Any]:
        """As a user would write it; one of the packaged configs, shortened."""
        return {
            "name": "bench-pipeline",
            "model": {"source": self.model},
            "data": {"source": self.model, "edits": self.edits},
            "stream": {"stage_size": self.stage_size, "batch_size": min(10, self.stage_size)},
            "editor": {"method": "elder-plus", "terminator": "sentence", **self.options},
            "evaluation": {"retention": "sample", "retention_sample": self.sample},
            "cluster": {"workers": self.workers, "sharding": "none", "address": "local"},
            "tracking": {"register": "bench"},
        }

    def prepare(self) -> None:
        """Have the model in the cache, which is not part of a run's time."""
        from elder.jobs.shared.wiring import home
        from elder.world.cache import ensure_world

        ensure_world(self.model, cache_dir=home())


class TimedTracker:
    """A tracker that writes down when each of its calls began and ended, and in which thread."""

    def __init__(self, tracker: Any) -> None:
        self._tracker = tracker
        self.calls: list[tuple[str, bool, float, float]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._tracker, name)
        if not callable(method):
            return method

        def timed(*args: Any, **kwargs: Any) -> Any:
            begin = time.time()
            try:
                return method(*args, **kwargs)
            finally:
                behind = threading.current_thread() is not threading.main_thread()
                self.calls.append((name, behind, begin, time.time()))

        return timed


def measure_here(setting: Setting) -> dict[str, Any]:
    """Run it in this process as `elder edit` does, in the working directory; returns what was seen."""
    import contextlib
    import io

    entered = time.time()
    from elder.jobs.main import BRISK, SILENT

    for name, value in {**SILENT, **BRISK}.items():
        os.environ.setdefault(name, value)
    from elder.jobs.shared.wiring import home, make_store_factory, open_tracker, quiet_libraries
    from elder.pipelines.config.run import parse_config
    from elder.pipelines.edit.driver import run_edit
    from elder.pipelines.run.commits import RunState

    config = parse_config(json.dumps(setting.config()), "bench")
    quiet_libraries(config)
    tracker = TimedTracker(open_tracker(config))
    factory = make_store_factory(config)
    events: list[tuple[float, str, str, int]] = []

    def on_event(event: Mapping[str, Any]) -> None:
        if event["kind"] in ("phase", "committed"):
            events.append((time.time(), event["kind"], str(event.get("name", "")), int(event["stage"])))

    ready = time.time()
    with contextlib.redirect_stdout(io.StringIO()):
        result = run_edit(config, factory, tracker, on_event, cache_dir=home())
    commits = RunState(factory(), config.run_id).commits()
    return {
        "entered": entered,
        "ready": ready,
        "events": events,
        "calls": tracker.calls,
        "commits": [
            {**c.timing, "bytes": sum(int(f["bytes"]) for f in c.files.values()), "edits": c.edits} for c in commits
        ],
        "final": {name: value for name, value in result["final"].items() if name.startswith("reliability")},
    }


@dataclass(frozen=True)
class Parts:
    """A run's time taken apart.

    Attributes:
        setting: What was run.
        seen: What `measure_here` returned.
        began: When the process was started.
        ended: When it had ended.
    """

    setting: Setting
    seen: Mapping[str, Any]
    began: float
    ended: float

    @property
    def total(self) -> float:
        """Seconds of the whole process."""
        return self.ended - self.began

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part; together they are `total`."""
        commits, events = self.seen["commits"], self.seen["events"]
        loading = next(at for at, kind, name, _ in events if name == "load")
        last = max(at for at, kind, _, _ in events if kind == "committed")
        found = {name: sum(c.get(f"{name}_s", 0.0) for c in commits) for name in ("load", "edit", "evaluate", "commit")}
        found["start"] = loading - self.began
        found["closing"] = self.ended - last
        found["between"] = max(0.0, self.total - sum(found.values()))
        return {name: found[name] for name in PARTS}

    @property
    def outside_share(self) -> float:
        """Share of the wall clock that is neither editing nor measuring."""
        return 1.0 - (self.seconds["edit"] + self.seconds["evaluate"]) / self.total

    @property
    def start_s(self) -> tuple[float, float, float]:
        """What `start` is made of: Python and its imports; the run opened in store and MLflow; Ray and its workers."""
        ready = self.seen["ready"]
        opened = max((end for name, behind, _, end in self.seen["calls"] if name == "log_dataset"), default=ready)
        loading = self.began + self.seconds["start"]
        return ready - self.began, opened - ready, loading - opened

    @property
    def retention_s(self) -> float:
        """Seconds of measuring the edits of earlier stages again, by their share of the edits that are measured."""
        size, commits = self.setting.stage_size, self.seen["commits"]
        found = 0.0
        for stage, commit in enumerate(commits):
            last = stage == len(commits) - 1
            earlier = commit["edits"] - size if last else stage * min(self.setting.sample, size)
            found += commit["evaluate_s"] * earlier / (earlier + size)
        return found

    @property
    def tracking_s(self) -> tuple[float, float]:
        """Seconds inside the tracker: beside the work, and with the driver waiting."""
        calls = self.seen["calls"]
        return tuple(sum(end - begin for _, behind, begin, end in calls if behind is where) for where in (True, False))  # type: ignore[return-value]

    @property
    def logging(self) -> list[float]:
        """Seconds that the tracker took for each stage, in order."""
        found, current = [], 0.0
        for name, _, begin, end in self.seen["calls"]:
            if name in ("log_metrics", "log_table", "log_adapter"):
                current += end - begin
                if name == "log_adapter":
                    found.append(current)
                    current = 0.0
        return found

    @property
    def rounds(self) -> list[float]:
        """Seconds of each stage from the beginning of its edits to its commit."""
        begun = {stage: at for at, kind, name, stage in self.seen["events"] if name == "edit"}
        done = {stage: at for at, kind, _, stage in self.seen["events"] if kind == "committed"}
        return [done[stage] - begun[stage] for stage in sorted(done)]

    @property
    def record(self) -> dict[str, Any]:
        """All figures, for a file."""
        return {
            "setting": vars(self.setting),
            "total_s": self.total,
            "outside_share": self.outside_share,
            "seconds": self.seconds,
            "start_s": self.start_s,
            "retention_s": self.retention_s,
            "tracking_s": self.tracking_s,
            "logging_s": self.logging,
            "commits": self.seen["commits"],
            "final": self.seen["final"],
        }


def part_lines(parts: Parts) -> Iterator[str]:
    """The run in one block: every part in seconds, for each stage, and as a share."""
    setting, stages = parts.setting, len(parts.seen["commits"])
    yield ""
    yield (
        f"{setting.name}: {setting.edits} edits of {setting.model} in {stages} stages, {setting.workers} workers, "
        f"{parts.total:.1f} s"
    )
    for name, seconds in parts.seconds.items():
        yield f"  {name:<10} {seconds:>8.2f} s {seconds / stages:>8.3f} s/stage {seconds / parts.total:>7.1%}"
    python, opened, workers = parts.start_s
    yield f"  start: Python and imports {python:.1f} s, run opened {opened:.1f} s, Ray and its workers {workers:.1f} s"
    behind, waiting = parts.tracking_s
    yield f"  MLflow     {behind:>8.2f} s beside the work, {waiting:.2f} s with the driver waiting (start, closing)"
    rest = sum(parts.seconds[name] for name in ("commit", "between")) / stages
    once = sum(parts.seconds[name] for name in ("start", "load", "closing"))
    yield f"  once a run {once:>8.2f} s; once a stage {rest:.3f} s"
    again, outside = parts.retention_s, parts.outside_share * parts.total
    yield f"  outside editing and measuring {parts.outside_share:.1%}"
    yield (
        f"  earlier stages measured again {again:.1f} s, which grows with the stream; without them the share outside "
        f"would be {outside / (parts.total - again):.1%}"
    )


def flatness_lines(parts: Parts) -> Iterator[str]:
    """First stages against last ones: does it cost more when more is applied?"""
    commits = parts.seen["commits"]
    count = max(1, len(commits) // 4)
    series: Mapping[str, Sequence[float]] = {
        "commit": [c["commit_s"] for c in commits],
        "between": parts_between(parts),
        "MLflow": parts.logging,
        "edit": [c["edit_s"] for c in commits],
        "evaluate": [c["evaluate_s"] for c in commits],
    }
    for name, values in series.items():
        first, last = statistics.fmean(values[:count]), statistics.fmean(values[-count:])
        yield f"  {name:<10} first {count} stages {first:>7.3f} s, last {count} {last:>7.3f} s"
    sizes = [c["bytes"] / 2**20 for c in commits]
    yield f"  committed  first stage {sizes[0]:.2f} MiB, last {sizes[-1]:.2f} MiB, {sum(sizes):.1f} MiB in all"


def parts_between(parts: Parts) -> list[float]:
    """Seconds of each stage that are not editing, measuring or committing."""
    return [
        max(0.0, wall - c["edit_s"] - c["evaluate_s"] - c["commit_s"])
        for wall, c in zip(parts.rounds, parts.seen["commits"], strict=True)
    ]


def stage_lines(parts: Parts) -> Iterator[str]:
    """Every stage of a run."""
    yield f"\n{parts.setting.name}, stage by stage: edits applied, edit, evaluate, commit, between, MLflow, MiB"
    for commit, between, logging in zip(parts.seen["commits"], parts_between(parts), parts.logging, strict=True):
        yield (
            f"  {commit['edits']:>6} {commit['edit_s']:>8.2f} {commit['evaluate_s']:>8.2f} {commit['commit_s']:>8.3f} "
            f"{between:>8.3f} {logging:>8.2f} {commit['bytes'] / 2**20:>8.2f}"
        )
