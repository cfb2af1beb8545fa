"""The benchmark runs from end to end, prints every figure and judges by its targets."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench.figures import random_codes
from bench.reference_elder import in_scope
from bench.timing import Figure, in_lockstep, interleaved, paired_ratio, step_ratio
from elder.mixture.codes import CodeStore

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quick_run_prints_every_figure(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "elder.py"), "--quick"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    for words in (
        "edit: elder / reference",
        "edit: elder-plus, same rows and steps / reference",
        "edit: elder-plus, its defaults (replay, more rows) / reference",
        "generate: elder, out of scope",
        "generate: elder, in scope",
        "generate: elder-plus, out of scope",
        "generate: elder-plus, in scope",
        "8 conversations together / one after another",
        "look-up: codes",
        "look-up: the reference's list",
        "look-up: keys of elder-plus",
    ):
        assert words in done.stdout
    assert f"torch {torch.__version__}" in done.stdout


def test_the_two_look_ups_agree() -> None:
    store, stored = CodeStore(6, 4, 2, torch.device("cpu")), random_codes(40, 6, 4, 2, seed=1)
    store.add(stored)
    queries = torch.cat([random_codes(300, 6, 4, 2, seed=2), stored[:5]])
    for epsilon in (2, 4, 6, 8):
        brute = in_scope(queries.flatten(1).int(), list(stored.flatten(1).int().split(7)), epsilon)
        assert (store.nearest(queries) < epsilon).tolist() == brute
        assert set(brute) == {True, False}


def test_rounds_pair_runs_in_turn() -> None:
    order: list[str] = []
    now = iter(range(1000))
    times = interleaved(
        {"a": lambda _: (order.append("a"), next(now)), "b": lambda _: order.append("b")}, 3, lambda: float(next(now))
    )
    assert order == ["a", "b", "b", "a", "a", "b", "b", "a"]
    assert times == {"a": [2.0] * 3, "b": [1.0] * 3}
    assert paired_ratio(times, "a", "b") == 2.0


@pytest.mark.parametrize(
    ("ratio", "target", "at_least", "passed"),
    [
        (1.04, 1.05, False, True),
        (1.06, 1.05, False, False),
        (3.1, 3.0, True, True),
        (2.9, 3.0, True, False),
        (9, None, True, True),
    ],
)
def test_figures_judge_by_their_target(ratio: float, target: float | None, at_least: bool, passed: bool) -> None:
    figure = Figure("x", 1.0, 2.0, "s", ratio, target, at_least)
    assert figure.passed is passed
    assert ("FAIL" in figure.line()) is not passed


def test_programs_in_lockstep_are_never_timed_while_the_other_computes() -> None:
    order: list[str] = []
    ticks = iter(range(10_000))

    def program(name: str) -> Callable[[Callable[[], None]], object]:
        def run(step: Callable[[], None]) -> None:
            for number in range(3):
                order.append(f"{name}{number}")
                step()

        return run

    times = in_lockstep({"a": program("a"), "b": program("b")}, 2, lambda: float(next(ticks)), warm_up=0)
    assert order == ["b0", "a0", "b1", "a1", "b2", "a2", "a0", "b0", "a1", "b1", "a2", "b2"]
    assert {name: [len(steps) for steps in rounds] for name, rounds in times.items()} == {"a": [3, 3], "b": [3, 3]}
    assert all(step == 1 for rounds in times.values() for steps in rounds for step in steps)  # one tick of the clock


def test_an_error_in_lockstep_is_raised_and_nobody_waits_for_ever() -> None:
    def fails(step: Callable[[], None]) -> None:
        step()
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        in_lockstep({"a": fails, "b": lambda step: [step() for _ in range(5)]}, 1, lambda: 0.0, warm_up=0)


def test_the_ratio_of_steps_is_formed_within_a_round() -> None:
    base = [[1.0, 2.0], [10.0, 20.0], [2.0, 4.0]]  # the machine was slow in the second round
    ours = [[a + 0.3 for a in steps] for steps in base]
    assert step_ratio({"ours": ours, "base": base}, "ours", "base") == pytest.approx(1 + 0.6 / 6)
