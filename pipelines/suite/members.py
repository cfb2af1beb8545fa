"""Several edit runs as one: the members of a comparison or of a study.

Each member is an ordinary run of `pipelines.run.driver`: committed, resumable, a child in the tracker. If it fails,
its error is kept beside the results of the others. Without Ray the members follow one another on one loaded base model;
with Ray, `pipelines.suite.parallel` does them side by side. Must not know boto3, mlflow or the command line.
"""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elder.edit import Edit
from elder.errors import AdapterError, ElderError, GateError, InputError, RunTakenOver, UnreachableError
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.suite import Member
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.planning.sharding import decide_sharding
from elder.pipelines.protocols import Store, Tracker
from elder.pipelines.run.broker import failure
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.driver import Runner
from elder.pipelines.run.inputs import read_stream, read_tokenizer, skipped_of
from elder.pipelines.run.requirements import needs_text, read_windows, usable
from elder.pipelines.run.resident import ResidentBases
from elder.pipelines.run.result import make_result
from elder.pipelines.run.spec import Event, EventHandler, RunSpec, WorkerParts

FINISHED, FAILED, REFUSED = "finished", "failed", "refused"
EMPTY: Mapping[str, Any] = {
    "base_model": {}, "stages": [], "final": {}, "retention": [], "adapter": {}, "registered": None, "timing": {},
}  # fmt: skip
"""The result of a run that committed nothing."""


@dataclass(frozen=True)
class MemberResult:
    """What became of a member.

    Attributes:
        status: `finished`, `failed`, or `refused` by a gate.
        result: As of `elder edit`; of one that did not finish, what it has committed.
        error: Why it did not.
    """

    status: str
    result: Mapping[str, Any]
    error: str = ""


class StatisticsTexts:
    """Texts of statistics, each read once, however many members name it."""

    def __init__(self) -> None:
        self._known: dict[tuple[Any, ...], Any] = {}
        self._lock = threading.Lock()

    def windows(self, config: RunConfig, cache_dir: Path | None) -> Any:
        """What a member's statistics are taken of; None if it takes none.

        Raises:
            InputError: There is no text or no tokenizer, or a block that is to be edited does not exist.
        """
        if not needs_text(config):
            return None
        tokenizer, context = read_tokenizer(config, cache_dir)
        key = tuple(config.editor.options.get(name) for name in ("text", "text_tokens"))
        with self._lock:
            if key not in self._known:
                self._known[key] = read_windows(config, tokenizer, context)
            return self._known[key]


@dataclass(frozen=True)
class SuiteContext:
    """What the members of a suite have in common.

    Attributes:
        store_factory: Picklable; makes a `Store`, here and inside workers.
        tracker_factory: Makes a `Tracker` for one member.
        on_event: Receives `member` events and those of the runs, with `member` in them; from several threads.
        cache_dir: Where the embedded model is kept.
        tags: Further tags of every tracked run.
        kit: How workers make their parts; for tests.
        streams: (seed, number of edits) -> the stream, checked; see `streams_of`.
        sharding: How base models lie on workers, decided.
        parent: The tracked run that members are shown below.
        adapters: Whether the tracker keeps the members' adapters too; the store always does.
        texts: What their statistics are taken of.
    """

    store_factory: Callable[[], Store]
    tracker_factory: Callable[[], Tracker]
    on_event: EventHandler
    streams: Mapping[tuple[int, int | None], Sequence[Edit]]
    sharding: str
    cache_dir: Path | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    kit: WorkerParts = field(default_factory=WorkerParts)
    parent: str | None = None
    adapters: bool = True
    texts: StatisticsTexts = field(default_factory=StatisticsTexts)

    def stream(self, config: RunConfig) -> Sequence[Edit]:
        """The edits of a member."""
        return self.streams[config.seed, config.data.edits]


def streams_of(
    members: Sequence[Member], read: Callable[[RunConfig], Sequence[Edit]] | None, cache_dir: Path | None
) -> dict[tuple[int, int | None], Sequence[Edit]]:
    """The streams of all members, each read and checked once. What one method needs beside is its own affair.

    Raises:
        InputError: All that is wrong with data and model files.
    """
    found: dict[tuple[int, int | None], Sequence[Edit]] = {}
    for member in members:
        key = (member.config.seed, member.config.data.edits)
        if key not in found:
            stream = read(member.config) if read else read_stream(member.config, cache_dir, needs=False)
            found[key] = usable(stream, [m.config for m in members if (m.config.seed, m.config.data.edits) == key])
    return found


def settled(members: Sequence[Member]) -> tuple[list[Member], str]:
    """The members with their sharding decided, the same for all, as the first one needs it; and that sharding."""
    sharding = decide_sharding(members[0].config)
    if members[0].config.cluster.workers == 0:
        return list(members), sharding
    cluster = members[0].config.cluster.replace(sharding=sharding)
    return [Member(m.name, m.config.replace(cluster=cluster)) for m in members], sharding


def run_member(member: Member, suite: SuiteContext, runner: Runner | None, kit: WorkerParts) -> MemberResult:
    """Bring one member to its end; what goes wrong with it alone is its outcome.

    Raises:
        UnreachableError: Cluster, store or tracker does not answer: the others would fare no better.
        RunTakenOver: Another driver has begun with it.
    """

    def hear(event: Event) -> None:
        suite.on_event({**event, "member": member.name})

    tracker = ChildTracker(suite.tracker_factory(), suite.parent, suite.adapters)
    try:
        result = run_edit(
            member.config, suite.store_factory, tracker, hear, cache_dir=suite.cache_dir, tags=suite.tags,
            edits=suite.stream(member.config), kit=kit, runner=runner,
            windows=suite.texts.windows(member.config, suite.cache_dir),
        )  # fmt: skip
        return MemberResult(FINISHED, result)
    except (UnreachableError, RunTakenOver):
        raise
    except GateError as error:
        partial = getattr(error, "result", None) or _committed(member, suite)
        return MemberResult(REFUSED, partial, str(error))
    except Exception as error:  # whatever it is, the others continue
        said = failure(error).error if not isinstance(error, InputError) else "; ".join(error.problems)
        if not isinstance(error, ElderError):  # it does not explain itself, and the result has one line of it
            with suppress(Exception):
                hear({"kind": "note", "text": traceback.format_exc().rstrip()})
        return MemberResult(FAILED, _committed(member, suite), said)


def _committed(member: Member, suite: SuiteContext) -> Mapping[str, Any]:
    """The result of what a member has committed; nothing of one whose record is damaged."""
    state = RunState(suite.store_factory(), member.config.run_id)
    try:
        stream = suite.stream(member.config)
        job = RunSpec(member.config, stream, suite.store_factory, skipped=skipped_of(stream))
        return make_result(job, state)
    except AdapterError:
        return {**EMPTY, "run_id": state.run_id, "config_digest": member.config.digest()}


def run_here(members: Sequence[Member], suite: SuiteContext) -> dict[str, MemberResult]:
    """One member after another in this process, on one base model that is loaded once."""
    from elder.pipelines.run.local_runner import run_locally

    bases = ResidentBases()
    ended: dict[str, MemberResult] = {}
    kit = bases.kit(suite.kit)
    for member in members:
        tell(suite, member, "running", len(ended), len(members))
        ended[member.name] = run_member(member, suite, run_locally, kit)
        gc.collect()  # editors are full of cycles, and their memory is wanted for the next one
        tell(suite, member, ended[member.name].status, len(ended), len(members), ended[member.name])
    return ended


def tell(
    suite: SuiteContext, member: Member, status: str, done: int, of: int, ended: MemberResult | None = None
) -> None:
    """An event about a member; `done` counts those that have ended. Never fails."""
    event: dict[str, Any] = {"kind": "member", "name": member.name, "status": status, "done": done, "of": of}
    if ended is not None:
        event |= {"error": ended.error, "metrics": dict(ended.result.get("final", {}))}
    with suppress(Exception):
        suite.on_event(event)


class ChildTracker:
    """A tracker whose run is shown below another one; everything else is the inner tracker's business."""

    def __init__(self, inner: Tracker, parent: str | None, adapters: bool = True) -> None:
        self._inner, self._parent, self._adapters = inner, parent, adapters

    def start(
        self, run_id: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None
    ) -> str:
        """See `Tracker.start`."""
        return self._inner.start(run_id, name, config, tags, parent or self._parent)

    def log_adapter(
        self, stage: int, directory: Path, metrics: Mapping[str, float], step: int, source: str | None = None
    ) -> str:
        """See `Tracker.log_adapter`; nothing where adapters stay in the store alone."""
        return self._inner.log_adapter(stage, directory, metrics, step, source) if self._adapters else ""

    def logged(self, tables: Sequence[str], stages: Sequence[int]) -> tuple[set[str], dict[int, str]]:
        """See `Tracker.logged`; no adapter is needed where they stay in the store alone."""
        found, models = self._inner.logged(tables, stages)
        return found, models if self._adapters else dict.fromkeys(stages, "")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


def outcome_error(ended: Mapping[str, MemberResult]) -> ElderError | None:
    """What a suite ends with: nothing when all finished, a gate's error when only gates refused, else a failure."""
    bad = {name: one for name, one in ended.items() if one.status != FINISHED}
    if not bad:
        return None
    lines = [f"{name} {one.status}: {one.error.splitlines()[0] if one.error else ''}" for name, one in bad.items()]
    text = "\n".join([f"{len(bad)} of {len(ended)} did not finish:", *lines])
    return GateError(text) if all(one.status == REFUSED for one in bad.values()) else ElderError(text)
