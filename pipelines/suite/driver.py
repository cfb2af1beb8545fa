"""What the drivers of a comparison and of a study share: data, record, runs, report.

It receives a store and trackers by protocol. Must not know boto3, mlflow, the command line, or what the runs are for.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elder.edit import Edit, dataset_digest
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.suite import Member
from elder.pipelines.protocols import Store, Tracker
from elder.pipelines.run.commits import check_same_runs
from elder.pipelines.run.inputs import read_text
from elder.pipelines.run.retry import RetryingStore, call_with_retries
from elder.pipelines.run.spec import EventHandler, WorkerParts
from elder.pipelines.suite.members import FINISHED, MemberResult, SuiteContext, run_here, settled, streams_of

SuiteRunner = Callable[[Sequence[Member], SuiteContext], Mapping[str, MemberResult]]
Summary = Callable[[Sequence[Member], Mapping[str, MemberResult], Store, Sequence[Edit], float], dict[str, Any]]
"""(members, what became of them, store, the longest stream, seconds) -> the result."""


@dataclass(frozen=True)
class SuiteRun:
    """A comparison or a study, as far as its driver needs to know it.

    Attributes:
        kind: `compare` or `study`.
        root: Its folder in the store.
        run: The config that all members share; its run id is that of the whole.
        members: The runs.
        config: The whole config as YAML.
        plain: The same as plain values.
        tags: Of its tracked run.
        summary: Makes the result.
        write: Writes a report of the result into a directory; returns the files' names.
        figures: Of the result, for the tracked run.
        adapters: Whether the tracker keeps the members' adapters.
    """

    kind: str
    root: str
    run: RunConfig
    members: Sequence[Member]
    config: str
    plain: Mapping[str, Any]
    tags: Mapping[str, str]
    summary: Summary
    write: Callable[[Path, Mapping[str, Any]], list[str]]
    figures: Callable[[Mapping[str, Any]], Mapping[str, float]]
    adapters: bool = True


@dataclass(frozen=True)
class SuiteIO:
    """What the caller wires in.

    Attributes:
        store_factory: Picklable; makes the store, here and inside workers.
        tracker_factory: Makes a tracker for the whole and one for each run.
        on_event: Receives `member`, `note` and the runs' own events; called from several threads.
        parallel: Runs at the same time on a cluster.
        cache_dir: Where the embedded model is kept.
        out: Receives the report; default: only the store does.
        edits: The stream for a config; default: the config's data, checked.
        tags: Further tags of all tracked runs.
        kit: How workers make their parts; for tests.
        runner: Does the runs; default: this process for `cluster.workers: 0`, else Ray.
    """

    store_factory: Callable[[], Store]
    tracker_factory: Callable[[], Tracker]
    on_event: EventHandler = lambda event: None
    parallel: int | None = None
    cache_dir: Path | None = None
    out: Path | None = None
    edits: Callable[[RunConfig], Sequence[Edit]] | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    kit: WorkerParts = field(default_factory=WorkerParts)
    runner: SuiteRunner | None = None

    def note(self, text: str) -> None:
        """A sentence for people; never fails."""
        with suppress(Exception):
            self.on_event({"kind": "note", "text": text})


@dataclass(frozen=True)
class SuiteOutcome:
    """The result for `--json`, and what became of every run."""

    result: Mapping[str, Any]
    ended: Mapping[str, MemberResult]


def run_suite(whole: SuiteRun, outside: SuiteIO) -> SuiteOutcome:
    """Bring every run to its end, from wherever an earlier call came to, and write the report.

    Raises:
        InputError: Config, data or model are wrong, or an id belongs to another run; nothing was started.
        UnreachableError: Cluster, store or tracker does not answer; what is committed is kept.
    """
    begun, run = time.time(), whole.run
    members, sharding = settled(whole.members)
    store = RetryingStore(outside.store_factory(), run.tracking.retry_timeout_s, outside.note)
    check_same_runs([member.config for member in members], store)
    read_text(run)  # what all of them read is not one member's failure
    streams = streams_of(members, outside.edits, outside.cache_dir)
    longest = max(streams.values(), key=len)
    store.put(f"{whole.root}/config.yaml", whole.config.encode())
    tracker = outside.tracker_factory()
    tags = {"elder.kind": whole.kind, "elder.base_model": run.model.source, **whole.tags, **outside.tags}
    parent = tracker.start(run.run_id, run.name, dict(whole.plain), tags)  # better known to be away now than later
    place = run.data.path or run.data.source
    tracker.log_dataset(run.data.source, dataset_digest(longest), place, len(longest))
    if tracker.url():
        outside.note(f"watch it: {tracker.url()}")
    suite = SuiteContext(
        outside.store_factory, outside.tracker_factory, outside.on_event, streams, sharding, outside.cache_dir,
        dict(outside.tags), outside.kit, parent, whole.adapters,
    )  # fmt: skip
    try:
        ended = (outside.runner or _choose(run, outside.parallel))(members, suite)
        result = whole.summary(members, ended, store, longest, round(time.time() - begun, 3))
        good = all(one.status == FINISHED for one in ended.values())
        _report(whole, outside, result, store, tracker, len(longest), good)
    except BaseException as error:
        # Ray's own answer to SIGTERM is SystemExit.
        with suppress(Exception):  # the reason counts
            tracker.finish("KILLED" if isinstance(error, KeyboardInterrupt | SystemExit) else "FAILED")
        raise
    return SuiteOutcome(result, ended)


def _choose(run: RunConfig, parallel: int | None) -> SuiteRunner:
    if run.cluster.workers == 0:
        return run_here
    from elder.pipelines.suite.parallel import side_by_side

    return side_by_side(parallel)


def _report(
    whole: SuiteRun, outside: SuiteIO, result: Mapping[str, Any], store: Store, tracker: Tracker, step: int, good: bool
) -> None:
    """Write the report where the user asked for it, in the store and in the tracker."""
    with tempfile.TemporaryDirectory() as folder:
        directory = outside.out or Path(folder)
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "result.json").write_text(json.dumps(result, indent=1), encoding="utf-8")
        files = ["result.json", *whole.write(directory, result)]
        for name in files:
            store.put(f"{whole.root}/report/{name}", directory / name)

        def log() -> None:
            tracker.log_metrics(dict(whole.figures(result)), step=step)
            for name in files:
                folder = Path(name).parent.as_posix()
                tracker.log_artifact(directory / name, "" if folder == "." else folder)
            tracker.finish("FINISHED" if good else "FAILED")

        call_with_retries(log, whole.run.tracking.retry_timeout_s, outside.note, "the tracker")
