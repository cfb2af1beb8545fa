"""The meeting place of an owner and of ranks, with every wait cut short."""

from __future__ import annotations

import threading

import pytest

from elder.errors import ElderError, GateError, UnreachableError
from elder.pipelines.run.broker import END, FAILED, LOST, STAGE, UNREACHABLE, StepOutcome, TrialBroker, failure


def make_broker() -> TrialBroker:
    return TrialBroker(wait_s=0.01, agreement_s=0.05)


def refused(text: str) -> StepOutcome:
    return failure(ElderError(text))


def test_a_run_is_taken_once_and_the_next_one_only_after_its_end() -> None:
    broker = make_broker()
    assert broker.take(0, -1) is None
    broker.post("first")
    assert broker.take(0, -1) == (0, "first")
    assert broker.take(0, 0) is None, "this rank has done it; others may still be at it"
    assert broker.take(1, -1) == (0, "first"), "a rank whose process is new takes up what has not ended"
    broker.end()
    assert broker.take(1, -1) is None
    broker.post("second")
    assert broker.take(0, 0) == (1, "second")
    broker.close()
    assert broker.take(0, 1) == (1, None)


def test_a_stage_waits_until_it_is_wanted() -> None:
    broker = make_broker()
    broker.post("run")
    assert broker.step(1) is None
    assert broker.proceed(0, {"a": 1.0}) is None
    assert broker.step(1) == StepOutcome(STAGE, 0, {"a": 1.0})
    assert broker.step(2) is None
    assert broker.proceed(0, {"a": 2.0}) is True, "asked again by a group that started again"
    assert broker.step(1) == StepOutcome(STAGE, 0, {"a": 1.0}), "the first word counts"
    broker.proceed(1, {})
    broker.end()
    found = [broker.step(2), broker.step(3)]
    assert [one.kind for one in found if one is not None] == [STAGE, END]


def test_a_run_that_is_stopped_ends_after_its_stage() -> None:
    broker = make_broker()
    broker.post("run")
    broker.proceed(0, {})
    assert not broker.stop()
    assert broker.proceed(0, {}) is False
    broker.end()
    assert broker.stop()
    broker.post("next")
    assert broker.proceed(0, {}) is None, "that was another run"


def test_an_owner_does_not_wait_for_a_poll() -> None:
    broker = TrialBroker(wait_s=30)
    broker.post("run")
    threading.Timer(0.05, broker.proceed, (0, {})).start()
    outcome = broker.step(1)
    assert outcome is not None
    assert outcome.kind == STAGE
    broker.end()


def test_ranks_that_agree_end_the_run_with_the_reason_of_the_lowest() -> None:
    broker = TrialBroker(agreement_s=30)
    broker.post("run")
    answers: list[bool] = []
    other = threading.Thread(target=lambda: answers.append(broker.refuse(1, 2, refused("one"), True)))
    other.start()
    assert broker.refuse(0, 2, refused("zero"), True)
    other.join()
    assert answers == [True]
    outcome = broker.step(1)
    assert outcome is not None
    assert outcome.error == "zero"


def test_a_rank_alone_ends_the_run_by_an_error_that_is_final() -> None:
    broker = make_broker()
    broker.post("run")
    assert not broker.refuse(0, 2, refused("it will not"), True)
    outcome = broker.step(1)
    assert outcome is not None
    assert (outcome.kind, outcome.error) == (FAILED, "it will not")


def test_an_error_that_may_go_away_ends_the_run_when_it_comes_again() -> None:
    broker = make_broker()
    broker.post("run")
    error = failure(ValueError("x"))
    assert not broker.refuse(1, 2, error, False)
    assert broker.step(1) is None
    assert broker.take(1, -1) == (0, "run"), "its new process tries again"
    assert not broker.refuse(1, 2, failure(ValueError("y")), False)
    assert broker.step(1) is None, "another one"
    assert broker.take(1, -1) == (0, "run")
    assert not broker.refuse(1, 2, error, False)
    assert broker.step(1) == error


def test_what_a_process_said_that_is_gone_does_not_count() -> None:
    broker = make_broker()
    broker.post("run")
    assert not broker.refuse(1, 2, failure(ValueError("x")), False)
    broker.take(1, -1)
    assert not broker.refuse(0, 2, failure(ValueError("y")), False)
    assert broker.step(1) is None


def test_work_that_is_lost_is_told_of_now_and_later() -> None:
    broker = make_broker()
    broker.post("run")
    broker.lose("the group is gone")
    assert broker.step(1) == StepOutcome(LOST, error="the group is gone")
    assert broker.stop()
    broker.post("next")
    assert broker.step(1) == StepOutcome(LOST, error="the group is gone")


def test_errors_become_outcomes() -> None:
    assert failure(UnreachableError("away")).kind == UNREACHABLE
    assert failure(GateError("no")).refused
    assert not failure(ElderError("no")).refused
    with pytest.raises(ValueError, match="first") as caught:
        raise ValueError("first\nsecond")
    assert failure(caught.value).error.startswith("ValueError: first (test_broker.py:")
