"""The members of a fleet side by side on a Ray cluster, placed by Ray Tune.

Every member has its driver in a thread (`pipelines.edit.driver.run_edit`, as ever); the stages are done by actors that
Tune places where there is room and that keep the base model from member to member. A member's driver hears of its
commits from here. Knows nothing of methods or reports.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from queue import Queue

from elder.errors import ElderError, GateError, InputError, UnreachableError
from elder.pipelines.cluster.ray_tune import SharedParts, free_slots, run_trials
from elder.pipelines.cluster.trial_resources import concurrency, trial_cluster
from elder.pipelines.cluster.trial_source import TrialRun
from elder.pipelines.config.run import RunConfig
from elder.pipelines.config.suite import Member
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.spec import EventHandler, RunSpec
from elder.pipelines.run.trained import pin_trained
from elder.pipelines.suite.members import FAILED, MemberResult, SuiteContext, run_member, tell

ABORT_S = 60.0  # how long an interrupted member may take to close its record


@dataclass(frozen=True)
class SuiteShared(SharedParts):
    """`SharedParts` for members of different streams; ships the whole world but what cannot travel."""

    jobs: Mapping[str, RunSpec] | None = None

    def job(self, config: RunConfig) -> RunSpec:
        """A member as it travels."""
        assert self.jobs is not None
        return self.jobs[config.run_id]


def run_side_by_side(
    members: Sequence[Member], world: SuiteContext, parallel: int | None = None
) -> dict[str, MemberResult]:
    """All members on the Ray cluster of the config, as many at a time as there is room for.

    Args:
        members: In the order in which they begin.
        world: What they share.
        parallel: At most so many at a time.

    Raises:
        UnreachableError: The cluster, the store or the tracker does not answer.
    """
    from elder.pipelines.cluster.ray_train import connection, worker_environment

    cluster = trial_cluster(members[0].config)
    with connection(cluster, worker_environment(cluster), world.on_event, everywhere=True):
        count = concurrency(free_slots(cluster), parallel, len(members))
        world.on_event({"kind": "note", "text": f"{count} runs at a time"})
        placed = PlacedMembers(members, world, count)
        try:
            run_trials(placed, shared_of(members, world), cluster, None, True)
        except BaseException:
            placed.abort()
            raise
        return placed.close()


def shared_of(members: Sequence[Member], world: SuiteContext) -> SuiteShared:
    """What the actors of the members get."""
    return SuiteShared(
        edits={},
        store_factory=world.store_factory,
        sharding=world.sharding,
        objective=(),
        jobs={member.config.run_id: travelling(member.config, world) for member in members},
    )


def travelling(config: RunConfig, world: SuiteContext) -> RunSpec:
    """The job of a member with what its method needs beside: text of statistics, trained editor."""
    job, store = world.job(config), world.store_factory()
    try:
        windows = world.texts.windows(config, world.cache_dir)
        before = RunState(store, config.run_id).record() or {}
        return replace(job, windows=windows, trained=pin_trained(config, store, before.get("trained")))
    except InputError:
        return job  # its driver meets the same error, and it is the member's outcome


class PlacedMembers:
    """Hands members out and tells their drivers what is committed. A `pipelines.cluster.trial_source.Source`.

    Args:
        members: In the order in which they begin.
        world: What they share.
        concurrent: How many at a time.
    """

    def __init__(self, members: Sequence[Member], world: SuiteContext, concurrent: int) -> None:
        self._waiting, self._world, self._concurrent = list(members), world, concurrent
        self._of = len(members)
        self._names = [member.name for member in members]
        self._drivers: dict[str, _MemberDriver] = {}
        self._busy: set[str] = set()

    def next(self) -> TrialRun | None:
        """See `Source.next`. Members that had ended before, or cannot begin, are passed over."""
        self._raise_broken()
        if len(self._busy) >= self._concurrent:
            return None
        while self._waiting:
            member = self._waiting.pop(0)
            driver = _MemberDriver(member, self._world, self._told)
            self._drivers[member.name] = driver
            if driver.wants_work():
                self._busy.add(member.name)
                return TrialRun(member.name, member.config, guarded=False)
            self._raise_broken()
        if not self._busy:
            raise StopIteration
        return None

    def started(self, name: str) -> None:
        """See `Source.started`."""
        self._world.on_event({"kind": "phase", "name": "load", "member": name})

    def staged(self, name: str, stage: int, metrics: Mapping[str, float]) -> None:
        """See `Source.staged`."""
        self._drivers[name].heard.put(_Staged(stage, dict(metrics)))

    def ended(self, name: str, failure: str | None, refused: bool = False) -> None:
        """See `Source.ended`. The driver closes the run's record while the next member begins."""
        self._busy.discard(name)
        error: BaseException | None = None
        if failure is not None:
            error = GateError(failure) if refused else ElderError(failure)
        self._drivers[name].heard.put(_Over(error))

    def stumbled(self, name: str, reason: str) -> None:
        """See `Source.stumbled`."""
        text = f"{name}: {reason}; it goes on from its last committed stage"
        self._world.on_event({"kind": "note", "text": text, "member": name})

    def past(self) -> Sequence[Sequence[float]]:
        """See `Source.past`: nothing is stopped early."""
        return []

    def unreachable(self, reason: str) -> None:
        """See `Source.unreachable`."""
        raise UnreachableError(f"{reason}\nwhat is committed stands; the same command goes on from there")

    def close(self) -> dict[str, MemberResult]:
        """Wait for the drivers to close their records; what became of every member, in order.

        Raises:
            UnreachableError: A record could not be written.
        """
        for driver in self._drivers.values():
            driver.thread.join()
        self._raise_broken()
        return {name: self._drivers[name].outcome() for name in self._names}

    def abort(self) -> None:
        """Let all drivers end now; their records say that they were interrupted."""
        for driver in self._drivers.values():
            driver.heard.put(_Over(KeyboardInterrupt()))
        for driver in self._drivers.values():
            driver.thread.join(ABORT_S)

    def _told(self, member: Member, status: str, ended: MemberResult | None = None) -> None:
        done = sum(1 for driver in list(self._drivers.values()) if driver.ended is not None)
        tell(self._world, member, status, done, self._of, ended)

    def _raise_broken(self) -> None:
        """An error that concerns all members ends the fleet."""
        for driver in self._drivers.values():
            if driver.broken is not None:
                raise driver.broken


@dataclass(frozen=True)
class _Staged:
    stage: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class _Over:
    error: BaseException | None


class _MemberDriver:
    """The driver of one member in a thread: all of `run_edit` but the work itself, of which it hears."""

    def __init__(self, member: Member, world: SuiteContext, told: Callable[..., None]) -> None:
        self.member, self.world, self._told = member, world, told
        self.heard: Queue[_Staged | _Over] = Queue()
        self.ended: MemberResult | None = None
        self.broken: BaseException | None = None
        self._ready = threading.Event()
        self._working = False
        self.thread = threading.Thread(target=self._run, name=f"elder-member-{member.name}", daemon=True)
        self.thread.start()

    def wants_work(self) -> bool:
        """Whether stages are left to do; waits until that is known."""
        self._ready.wait()
        return self._working

    def outcome(self) -> MemberResult:
        """What became of the member."""
        return self.ended or MemberResult(FAILED, {}, "its driver ended without a word")

    def _run(self) -> None:
        try:
            self.ended = run_member(self.member, self.world, self._work, self.world.kit)
            self._told(self.member, self.ended.status, self.ended)
        except BaseException as error:  # an interruption too: it came from the main thread, which has it already
            self.broken = error
        finally:
            self._ready.set()

    def _work(self, job: RunSpec, hear: EventHandler) -> None:
        """A `Runner`: passes on what the actor says, until the run is over there."""
        self._working = True
        self._told(self.member, "running")
        self._ready.set()
        while True:
            word = self.heard.get()
            if isinstance(word, _Over):
                if word.error is not None:
                    raise word.error
                return
            done = job.stages[word.stage].end
            hear({"kind": "committed", "stage": word.stage, "edits": done, "metrics": dict(word.metrics)})


def suite_runner(parallel: int | None) -> Callable[[Sequence[Member], SuiteContext], dict[str, MemberResult]]:
    """`run_side_by_side` with its cap."""

    def run(members: Sequence[Member], world: SuiteContext) -> dict[str, MemberResult]:
        return run_side_by_side(members, world, parallel)

    return run
