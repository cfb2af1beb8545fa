"""The members of a suite side by side on a Ray cluster.

Every member has its driver (`pipelines.edit.driver.run_edit`) in a thread of this process; its stages are done by
workers that keep the base model from member to member. Knows nothing of methods or reports.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack

from elder.errors import ElderError, GateError
from elder.pipelines.cluster.resident_workers import ResidentWorkers, resident_workers
from elder.pipelines.config.suite import Member
from elder.pipelines.run.broker import FAILED, StepOutcome
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.known import asks_first
from elder.pipelines.run.spec import EventHandler, RunSpec
from elder.pipelines.run.takeover import TakeoverWatch
from elder.pipelines.suite.members import MemberResult, SuiteContext, run_member, tell

ABORT_S = 60.0  # how long an interrupted member may take to close its record


def side_by_side(parallel: int | None) -> Callable[[Sequence[Member], SuiteContext], dict[str, MemberResult]]:
    """Runs all members on the Ray cluster of the config, as many at a time as there is room for, at most `parallel`.

    Raises:
        UnreachableError: The cluster, the store or the tracker does not answer.
    """

    def run(members: Sequence[Member], suite: SuiteContext) -> dict[str, MemberResult]:
        config, on_event = members[0].config, suite.on_event
        with resident_workers(config, suite.sharding, parallel, len(members), on_event, "runs") as workers:
            return SideBySide(members, suite, workers).run()

    return run


class SideBySide:
    """The drivers of all members, as many at work at a time as there are workers.

    Args:
        members: In the order in which they begin.
        suite: What they share.
        workers: Do their stages.
    """

    def __init__(self, members: Sequence[Member], suite: SuiteContext, workers: ResidentWorkers) -> None:
        self._members, self._suite, self._workers = members, suite, workers
        self._room = threading.Semaphore(workers.count)
        self._ended: dict[str, MemberResult] = {}
        self._broken: BaseException | None = None

    def run(self) -> dict[str, MemberResult]:
        """What became of every member, in order.

        Raises:
            UnreachableError: As for `run_member`; the other members were interrupted.
        """
        drivers: list[threading.Thread] = []
        try:
            for member in self._members:
                self._room.acquire()
                if self._broken is not None:
                    break
                name = f"elder-member-{member.name}"
                drivers.append(threading.Thread(target=self._drive, args=(member,), name=name, daemon=True))
                drivers[-1].start()
            for driver in drivers:
                driver.join()
        except BaseException:
            self._workers.abort()
            for driver in drivers:
                driver.join(ABORT_S)
            raise
        if self._broken is not None:
            raise self._broken
        return {member.name: self._ended[member.name] for member in self._members}

    def _drive(self, member: Member) -> None:
        """One member, from its record to its report. The next one begins while the report of this one is written."""
        suite, of = self._suite, len(self._members)
        with ExitStack() as place:
            place.callback(self._room.release)

            def work(job: RunSpec, hear: EventHandler) -> None:
                tell(suite, member, "running", len(self._ended), of)
                self._work(job, hear)
                if not asks_first(job):
                    place.close()  # its worker is free

            try:
                ended = run_member(member, suite, work, suite.kit)
            except BaseException as error:  # it concerns all members; or it was said to all of them
                self._broken = self._broken or error
                self._workers.abort()
                return
            self._ended[member.name] = ended
            tell(suite, member, ended.status, len(self._ended), of, ended)

    def _work(self, job: RunSpec, hear: EventHandler) -> None:
        """A `Runner`: what becomes of a run on the worker that it gets."""

        def staged(outcome: StepOutcome) -> bool:
            edits = job.stages[outcome.stage].end
            hear({"kind": "committed", "stage": outcome.stage, "edits": edits, "metrics": dict(outcome.metrics)})
            return True

        def begun() -> None:
            hear({"kind": "phase", "name": "load"})

        def died(reason: str) -> None:
            hear({"kind": "note", "text": reason})

        def taken_over() -> None:
            self._broken = self._broken or watch.error  # before the others meet the end of their workers
            self._workers.abort()

        with TakeoverWatch(job, taken_over) as watch:
            outcome = self._workers.run(job, staged, begun, died)
        if outcome.kind == FAILED:
            RunState(job.store_factory(), job.config.run_id).drivers.check(job.claim)  # was it taken over?
            raise (GateError if outcome.refused else ElderError)(outcome.error)
