"""Values that belong to the thread or task that sets them."""

from __future__ import annotations

import asyncio
import copy
import pickle
import threading

import pytest

from elder.scoped import Scoped


def test_a_block_holds_its_value_and_blocks_nest() -> None:
    scoped = Scoped("default")
    with scoped.holding("outer"):
        with scoped.holding("inner"):
            assert scoped.get() == "inner"
        assert scoped.get() == "outer"
    assert scoped.get() == "default"


def test_a_block_that_raises_ends_all_the_same() -> None:
    scoped = Scoped(0)
    with pytest.raises(RuntimeError), scoped.holding(1):
        raise RuntimeError
    assert scoped.get() == 0


def test_two_values_of_one_kind_do_not_meet() -> None:
    one, other = Scoped(1), Scoped(2)
    with one.holding(3):
        assert (one.get(), other.get()) == (3, 2)


def test_threads_do_not_see_each_others_values() -> None:
    scoped, together, seen = Scoped(-1), threading.Barrier(4), {}

    def work(number: int) -> None:
        before = scoped.get()
        with scoped.holding(number):
            together.wait(timeout=30)
            seen[number] = (before, scoped.get())
            together.wait(timeout=30)

    with scoped.holding(99):  # the thread that starts others hands nothing on
        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=30)
        assert scoped.get() == 99
    assert seen == {n: (-1, n) for n in range(4)}


def test_tasks_do_not_see_each_others_values() -> None:
    scoped = Scoped(-1)

    async def work(number: int) -> tuple[int, int]:
        with scoped.holding(number):
            first = scoped.get()
            await asyncio.sleep(0)
            return first, scoped.get()

    async def both() -> list[tuple[int, int]]:
        return await asyncio.gather(*(work(n) for n in range(3)))

    assert asyncio.run(both()) == [(n, n) for n in range(3)]


@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_a_copy_has_the_default_and_is_another(how: str) -> None:
    scoped = Scoped(0)
    with scoped.holding(1):
        twin = copy.deepcopy(scoped) if how == "copied" else pickle.loads(pickle.dumps(scoped))
        assert twin.get() == 0
        with twin.holding(2):
            assert scoped.get() == 1
