"""How long a run waits, and for what."""

from __future__ import annotations

from pathlib import Path

import pytest

from elder.errors import AdapterError, RunTakenOver, UnreachableError
from elder.infra.stores.local import LocalStore
from elder.pipelines.run import retry
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.retry import RetryingStore, call_with_retries
from tests.pipelines.run.test_commits import commit


class MoodyStore(LocalStore):
    """Fails so often before the work is done, or does it and loses the answer."""

    def __init__(self, directory: Path, failures: int = 0, lost: int = 0) -> None:
        super().__init__(directory)
        self.failures, self.lost = failures, lost

    def create(self, key: str, data: bytes) -> bool:
        if self.failures:
            self.failures -= 1
            raise UnreachableError("no answer\nsecond line")
        made = super().create(key, data)
        if self.lost:
            self.lost -= 1
            raise UnreachableError("answer lost")
        return made


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    pauses: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", pauses.append)
    return pauses


def never() -> None:
    raise UnreachableError("no answer")


@pytest.mark.parametrize(
    ("seconds", "pauses"),
    [(0, []), (0.5, [0.5]), (10, [1, 2, 4, 3]), (120, [1, 2, 4, 8, 16, 30, 30, 29])],
)
def test_pauses_double_and_add_up_to_the_timeout(seconds: float, pauses: list[float], slept: list[float]) -> None:
    with pytest.raises(UnreachableError, match="no answer"):
        call_with_retries(never, seconds, lambda text: None, "the store")
    assert slept == pauses


def test_an_outage_is_waited_for_and_told(tmp_path: Path, slept: list[float]) -> None:
    told: list[str] = []
    store = RetryingStore(MoodyStore(tmp_path, failures=3), 60, told.append)
    assert store.create("k", b"v") is True
    assert slept == [1, 2, 4]
    assert told[0] == "the store does not answer, trying again in 1 s: no answer"


def test_a_store_that_stays_away_is_told_in_the_end(tmp_path: Path, slept: list[float]) -> None:
    store = RetryingStore(MoodyStore(tmp_path, failures=100), 7, lambda text: None)
    with pytest.raises(UnreachableError, match="no answer"):
        store.create("k", b"v")
    assert sum(slept) == 7


def test_absent_and_damaged_objects_are_not_waited_for(tmp_path: Path, slept: list[float]) -> None:
    store = RetryingStore(LocalStore(tmp_path), 60, lambda text: None)
    store.put("k", b"v")
    with pytest.raises(KeyError):
        store.get("absent")
    with pytest.raises(AdapterError):
        store.get("k", "0" * 64)
    assert not slept


def test_a_commit_whose_answer_was_lost_is_ours(tmp_path: Path, slept: list[float]) -> None:
    state = RunState(RetryingStore(MoodyStore(tmp_path, lost=1), 60, lambda text: None), "run-1")
    assert state.commit(commit(attempt="ours")).attempt == "ours"
    assert [c.attempt for c in state.commits()] == ["ours"]


def test_a_claim_whose_answer_was_lost_is_made_again(tmp_path: Path, slept: list[float]) -> None:
    state = RunState(RetryingStore(MoodyStore(tmp_path, lost=1), 60, lambda text: None), "run-1")
    number = state.drivers.take({"host": "here"})
    state.drivers.check(number)


def test_the_newest_driver_owns_the_run(tmp_path: Path) -> None:
    state = RunState(LocalStore(tmp_path), "run-1")
    first = state.drivers.take({"host": "one"})
    state.drivers.check(first)
    second = state.drivers.take({"host": "two", "process": "7"})
    state.drivers.check(second)
    state.drivers.check(0)  # a run that nobody claims, such as a trial
    with pytest.raises(RunTakenOver, match=r"taken over run 'run-1' \(host two, process 7\)"):
        state.drivers.check(first)


def test_without_patience_the_first_failure_is_the_last(slept: list[float]) -> None:
    def fail() -> None:
        raise UnreachableError("gone")

    with pytest.raises(UnreachableError):
        call_with_retries(fail, 0, lambda text: None, "it")
    assert not slept
