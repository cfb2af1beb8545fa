"""Several edit runs as one: the members of a comparison or of a study.

Each member is an ordinary run of `pipelines.run.driver`: committed, resumable, a child in the tracker. What fails of it
is kept beside what the others came to. Without Ray the members follow one another on one loaded base model; with
Ray, `pipelines.suite.parallel` places them side by side. Must not know boto3, mlflow or the command line.
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
from elder.errors import AdapterError, ElderError, GateError, InputError, UnreachableError
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.suite import Member
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.planning.sharding import decide_sharding
from elder.pipelines.protocols import Store, Tracker
from elder.pipelines.run.commits import RunState, RunTakenOver
from elder.pipelines.run.driver import Runner
from elder.pipelines.run.inputs import read_stream, read_text, read_tokenizer, skipped_of
from elder.pipelines.run.requirements import needs_text, read_windows, usable
from elder.pipelines.run.resident import ResidentBases
from elder.pipelines.run.result import make_result
from elder.pipelines.run.spec import Event, EventHandler, RunSpec, WorkerParts
from elder.pipelines.run.stepping import failure

FINISHED, FAILED, REFUSED = "finished", "failed", "refused"
EMPTY: Mapping[str, Any] = {
    "base_model": {}, "stages": [], "final": {}, "retention": [], "adapter": {}, "registered": None, "timing": {},
}  # fmt: skip
"""A result in which nothing stands."""


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
    """What the members of a fleet have in common.

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

    def job(self, config: RunConfig) -> RunSpec:
        """A member as it travels."""
        return RunSpec(
            config=config,
            edits=tuple(self.stream(config)),
            store_factory=self.store_factory,
            sharding=self.sharding,
            cache_dir=self.cache_dir,
            perplexity_text=read_text(config),
            kit=self.kit,
            skipped=skipped_of(self.stream(config)),
        )

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


def run_member(member: Member, world: SuiteContext, runner: Runner | None, kit: WorkerParts) -> MemberResult:
    """Bring one member to its end; what goes wrong with it alone is its outcome.

    Raises:
        UnreachableError: Cluster, store or tracker does not answer: the others would fare no better.
        RunTakenOver: Another driver has begun with it.
    """

    def hear(event: Event) -> None:
        world.on_event({**event, "member": member.name})

    tracker = ChildTracker(world.tracker_factory(), world.parent, world.adapters)
    try:
        result = run_edit(
            member.config, world.store_factory, tracker, hear, cache_dir=world.cache_dir, tags=world.tags,
            edits=world.stream(member.config), kit=kit, runner=runner,
            windows=world.texts.windows(member.config, world.cache_dir),
        )  # fmt: skip
        return MemberResult(FINISHED, result)
    except (UnreachableError, RunTakenOver):
        raise
    except GateError as error:
        partial = getattr(error, "result", None) or _committed(member, world)
        return MemberResult(REFUSED, partial, str(error))
    except Exception as error:  # whatever it is, the others go on
        said = failure(error).error if not isinstance(error, InputError) else "; ".join(error.problems)
        if not isinstance(error, ElderError):  # it does not explain itself, and the result has one line of it
            with suppress(Exception):
                hear({"kind": "note", "text": traceback.format_exc().rstrip()})
        return MemberResult(FAILED, _committed(member, world), said)


def _committed(member: Member, world: SuiteContext) -> Mapping[str, Any]:
    """The result of what a member has committed; of one whose record is damaged nothing, and it is told why."""
    state = RunState(world.store_factory(), member.config.run_id)
    try:
        return make_result(world.job(member.config), state)
    except AdapterError:
        return {**EMPTY, "run_id": state.run_id, "config_digest": member.config.digest()}


def run_here(members: Sequence[Member], world: SuiteContext) -> dict[str, MemberResult]:
    """One member after another in this process, on one base model that is loaded once."""
    from elder.pipelines.run.local_runner import run_locally

    bases = ResidentBases()
    ended: dict[str, MemberResult] = {}
    kit = bases.kit(world.kit)
    for member in members:
        tell(world, member, "running", len(ended), len(members))
        ended[member.name] = run_member(member, world, run_locally, kit)
        gc.collect()  # editors are full of cycles, and their memory is wanted for the next one
        tell(world, member, ended[member.name].status, len(ended), len(members), ended[member.name])
    return ended


def tell(
    world: SuiteContext, member: Member, status: str, done: int, of: int, ended: MemberResult | None = None
) -> None:
    """An event about a member; `done` counts those that have ended. Never fails."""
    event: dict[str, Any] = {"kind": "member", "name": member.name, "status": status, "done": done, "of": of}
    if ended is not None:
        event |= {"error": ended.error, "metrics": dict(ended.result.get("final", {}))}
    with suppress(Exception):
        world.on_event(event)


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

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class ParentRun:
    """The tracked run that stands above those of the members.

    Args:
        tracker: Its own tracker.
        run_id: Its id in this house, such as that of the comparison.
        title: For people.
        config: Resolved, plain.
        tags: Its tags.
        patience: Calls a tracker until it answers or patience ends.
    """

    def __init__(
        self,
        tracker: Tracker,
        run_id: str,
        title: str,
        config: Mapping[str, Any],
        tags: Mapping[str, str],
        patience: Callable[[Callable[[], Any]], Any],
    ) -> None:
        self._tracker, self._patience = tracker, patience
        self._start = (run_id, title, dict(config), dict(tags))
        self.id = ""

    def open(self, dataset: Mapping[str, Any]) -> str:
        """Start it and name its data; returns its id in the tracker.

        Raises:
            UnreachableError: The tracker does not answer: better known before the work than after it.
        """
        self.id = self._tracker.start(*self._start)
        self._tracker.log_dataset(**dataset)
        return self.id

    def url(self) -> str | None:
        """Where a person can look at it."""
        return self._tracker.url()

    def close(self, directory: Path, files: Sequence[str], figures: Mapping[str, float], step: int, good: bool) -> None:
        """Figures, files below a directory, and its end."""

        def call() -> None:
            self._tracker.log_metrics(dict(figures), step=step)
            for name in files:
                folder = Path(name).parent.as_posix()
                self._tracker.log_artifact(directory / name, "" if folder == "." else folder)
            self._tracker.finish("FINISHED" if good else "FAILED")

        self._patience(call)

    def abandon(self, status: str) -> None:
        """End it early; never hides the reason."""
        with suppress(Exception):
            self._tracker.finish(status)


def outcome_error(ended: Mapping[str, MemberResult]) -> ElderError | None:
    """What a fleet ends with: nothing when all finished, a gate's error when only gates refused, else a failure."""
    bad = {name: one for name, one in ended.items() if one.status != FINISHED}
    if not bad:
        return None
    lines = [f"{name} {one.status}: {one.error.splitlines()[0] if one.error else ''}" for name, one in bad.items()]
    text = "\n".join([f"{len(bad)} of {len(ended)} did not finish:", *lines])
    return GateError(text) if all(one.status == REFUSED for one in bad.values()) else ElderError(text)
