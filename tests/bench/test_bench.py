"""The benchmark runs from end to end, prints every figure and judges by its targets."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.figures import random_codes
from bench.reference_elder import in_scope
from bench.timing import Figure, interleaved, paired_ratio
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
