"""What becomes of the drivers of a run is settled once, so that of two that meet, one works."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

import pytest

from elder.errors import RunTakenOver
from elder.infra.stores.local import LocalStore
from elder.pipelines.run.driver_epochs import DriverEpochs


@pytest.fixture
def drivers(tmp_path: Path) -> DriverEpochs:
    found = DriverEpochs(LocalStore(tmp_path), "run-1")
    assert [found.take({"host": host}) for host in ("one", "two", "three")] == [1, 2, 3]
    return found


def test_the_newest_one_that_has_not_ended_owns_the_run(drivers: DriverEpochs) -> None:
    assert drivers.end(3)
    with pytest.raises(RunTakenOver, match="host two"):
        drivers.check(1)
    drivers.check(2)
    drivers.check(3)


def test_when_all_newer_ones_have_ended_the_older_one_continues(drivers: DriverEpochs) -> None:
    assert drivers.end(2)
    assert drivers.end(3)
    assert drivers.end(3), "saying it twice changes nothing"
    drivers.check(1)


def test_one_to_which_the_run_was_handed_over_cannot_leave_it_to_the_older_one(drivers: DriverEpochs) -> None:
    for _ in range(2):
        with pytest.raises(RunTakenOver, match="host three"):
            drivers.check(1)
    assert not drivers.end(3)
    with pytest.raises(RunTakenOver, match="host three"):
        drivers.check(2)
    assert drivers.take({"host": "four"}) == 4


def test_the_older_one_is_named_until_it_lets_go(drivers: DriverEpochs) -> None:
    assert drivers.older(1) == ""
    assert drivers.older(2) == "host one"
    assert drivers.older(3) == "host two"
    drivers.end(2)
    assert drivers.older(3) == ""
    with pytest.raises(RunTakenOver):
        drivers.check(1)
    assert drivers.older(4) == "host three"


def test_of_two_that_meet_at_the_same_moment_exactly_one_works(tmp_path: Path) -> None:
    """The newer one gives up while the older one looks, 50 times: never do both stop, and never do both work."""
    for number in range(50):
        works = _meet(DriverEpochs(LocalStore(tmp_path), f"run-{number}"))
        assert len(works) == 1, (number, works)


def _meet(drivers: DriverEpochs) -> list[str]:
    older, newer = drivers.take({}), drivers.take({})
    meet, works = threading.Barrier(2), list[str]()

    def look() -> None:
        meet.wait()
        with suppress(RunTakenOver):
            drivers.check(older)
            works.append("older")

    looking = threading.Thread(target=look)
    looking.start()
    meet.wait()
    if not drivers.end(newer):
        works.append("newer")
    looking.join()
    return works
