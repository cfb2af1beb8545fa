"""The parts of a search: objective, searchers, stepping, plots, display."""

from __future__ import annotations

import io
import math
import struct
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from elder.jobs.terminal.tune_display import TuneDisplay
from elder.pipelines.cluster.trial_resources import concurrency, trial_cluster
from elder.pipelines.config.objective import objective_value, pareto, unmeasured
from elder.pipelines.config.space import Domain
from elder.pipelines.run.broker import END, FAILED, STAGE, UNREACHABLE
from elder.pipelines.run.resident import ResidentBases
from elder.pipelines.run.run_stages import run_stages
from elder.pipelines.run.stepping import LocalTrialHost
from elder.pipelines.search.optuna_tpe import Past, importance
from elder.pipelines.search.plots import importance_bars, parallel_coordinates, pareto_front
from elder.pipelines.search.searchers import make_searcher
from elder.runtime import LocalRuntime
from tests.pipelines.fakes import FakeKit, Mishap, make_config
from tests.pipelines.run.test_stage_loop import commits, make_job

SPACE = {"editor.lr": Domain("loguniform", (1e-5, 1e-1)), "editor.layers": Domain("choice", ([1, 2], [2, 3]))}


def height(parameters: Any) -> float:
    return -abs(math.log10(parameters["editor.lr"]) + 3) + (parameters["editor.layers"] == [2, 3])


def test_the_objective_is_the_harmonic_mean() -> None:
    names = ("a", "b", "c")
    assert objective_value({"a": 1.0, "b": 0.5, "c": 0.25}, names) == pytest.approx(3 / 7)
    assert objective_value({"a": 1.0, "b": 0.0, "c": 1.0}, names) == 0.0
    assert objective_value({"a": 1.0, "b": 1.0}, names) is None
    assert objective_value({"a": 1.0, "b": math.nan, "c": 1.0}, names) is None
    assert objective_value({"a": -3.0}, ("a",)) == -3.0
    assert unmeasured({"a": 1.0, "b": math.nan}, names) == ["b", "c"]


def test_the_pareto_front_is_what_nobody_beats() -> None:
    points = [(0.9, 0.5), (0.5, 0.9), (0.5, 0.5), (0.9, 0.4), (0.7, 0.7), (0.5, 0.9)]
    assert pareto(points) == [1, 5, 4, 0]


def _searched(name: str, trials: int, seed: int = 0) -> list[Past]:
    searcher = make_searcher(name, SPACE, seed, trials, "max", lambda point: True)
    past: list[Past] = []
    for number in range(trials):
        point = searcher(number, past)
        assert point is not None
        past.append(Past(point, [height(point)], "finished"))
    return past


def test_searchers_are_functions_of_what_is_known() -> None:
    for name in ("random", "tpe"):
        past = _searched(name, 12)
        searcher = make_searcher(name, SPACE, 0, 12, "max", lambda point: True)
        assert [searcher(i, past[:i]) for i in range(12)] == [one.parameters for one in past]
        assert _searched(name, 3, seed=1)[0].parameters != past[0].parameters


def test_tpe_learns_from_trials_and_random_does_not() -> None:
    def late(name: str) -> float:
        return sum(one.values[0] for one in _searched(name, 40)[20:]) / 20

    assert late("tpe") > late("random") + 0.3


def test_tpe_knows_running_pruned_and_failed_trials() -> None:
    past = _searched("random", 8)
    mixed = [
        *past[:5],
        Past(past[5].parameters, [0.1, 0.2], "pruned"),
        Past(past[6].parameters, [], "failed"),
        Past(past[7].parameters, [], "running"),
    ]
    searcher = make_searcher("tpe", SPACE, 0, 20, "max", lambda point: True)
    assert searcher(8, mixed) == searcher(8, mixed)
    crowd = [*past, *[Past(searcher(8, past) or {}, [], "running")] * 40]
    assert searcher(8, crowd) != searcher(8, past)  # what is under way already counts as bad


@pytest.mark.parametrize("name", ["random", "tpe", "grid"])
def test_points_that_cannot_be_are_passed_over(name: str) -> None:
    space = {"k": Domain("int", (1, 4)), "n": Domain("choice", (1, 2, 4))}
    searcher = make_searcher(name, space, 0, 20, "max", lambda point: point["k"] <= point["n"])
    past: list[Past] = []
    for number in range(7):
        point = searcher(number, past)
        assert point is not None
        assert point["k"] <= point["n"]
        past.append(Past(point, [float(point["k"])], "finished"))
    nothing = make_searcher(name, space, 0, 20, "max", lambda point: False)
    assert nothing(0, past) is None


def test_importance_finds_what_matters() -> None:
    shares = importance(SPACE, _searched("random", 40), "max")
    assert next(iter(shares)) == "editor.lr"
    assert sum(shares.values()) == pytest.approx(1.0)


def test_a_run_halts_after_every_stage_until_it_is_asked(tmp_path: Path) -> None:
    job = make_job(tmp_path)
    host = LocalTrialHost(LocalRuntime())
    host.begin(job)
    assert commits(job) == []
    assert (host.advance().stage, len(commits(job))) == (0, 1)
    assert (host.advance().stage, len(commits(job))) == (1, 2)
    host.stop()
    assert len(commits(job)) == 2  # it did not continue by itself
    host.begin(job)  # taken up again: the first two come from the store
    assert [host.advance().kind for _ in range(4)] == [STAGE, STAGE, STAGE, END]
    assert len(commits(job)) == 3
    assert host.bases.loads == 1
    host.close()


def test_a_run_that_fails_leaves_the_process_fit_for_the_next(tmp_path: Path) -> None:
    host = LocalTrialHost(LocalRuntime())
    bad = make_job(tmp_path, kit=FakeKit(mishaps=(Mishap("raise", 1, "", once=False),)))
    host.begin(bad)
    outcome = host.advance()
    assert outcome.kind == FAILED
    assert "stumbled (fakes.py:" in outcome.error
    assert host.advance().kind == END
    host.begin(make_job(tmp_path, run_id="run-2"))
    assert host.advance().kind == STAGE
    host.close()


def test_an_absent_store_is_no_failure_of_the_run(tmp_path: Path) -> None:
    class Nowhere:
        def __call__(self) -> Any:
            from elder.errors import UnreachableError

            raise UnreachableError("nobody is there")

    import dataclasses

    host = LocalTrialHost(LocalRuntime())
    host.begin(dataclasses.replace(make_job(tmp_path), store_factory=Nowhere()))
    assert host.advance().kind == UNREACHABLE


def test_a_no_ends_the_run_on_all_ranks(tmp_path: Path) -> None:
    told: list[Any] = []

    class Two(LocalRuntime):
        def gather_objects(self, item: Any) -> list[Any]:
            if isinstance(item, bool):
                told.append(item)
            return [item]

    job = make_job(tmp_path)
    run_stages(job, Two(), lambda event: None, lambda stage, metrics: stage < 1)
    assert told == [True, False]
    assert len(commits(job)) == 2


def test_another_model_takes_the_place_of_the_resident_one(tmp_path: Path) -> None:
    bases = ResidentBases()
    one = make_job(tmp_path)
    runtime = LocalRuntime()
    first = bases.get(one, runtime)
    assert bases.get(one, runtime) is first
    bases.answers[16, 64, True] = "what it said"
    assert bases.get(make_job(tmp_path, editor={"rank": 2}), runtime) is first
    assert bases.answers
    other = make_job(tmp_path, model={"dtype": "bfloat16"})
    assert bases.get(other, runtime) is not first
    assert bases.answers == {}
    assert bases.loads == 2


def test_concurrency_follows_room_cap_and_trials() -> None:
    assert concurrency(8, None, 20) == 8
    assert concurrency(8, 3, 20) == 3
    assert concurrency(2, 3, 20) == 2
    assert concurrency(8, None, 5) == 5
    assert concurrency(0, None, 20) == 1  # a cluster that still has to grow
    assert concurrency(0, 4, 20) == 4


def test_a_trial_uses_the_cores_that_it_reserves() -> None:
    cluster = trial_cluster(make_config(cluster={"workers": 0, "cpus_per_worker": 3}))
    assert (cluster.workers, cluster.threads_per_worker) == (1, 3)
    assert trial_cluster(make_config(cluster={"threads_per_worker": 2})).threads_per_worker == 2


TRIALS: list[dict[str, Any]] = [
    {
        "status": "pruned" if i % 3 == 0 else "finished",
        "parameters": {"editor.lr": 10.0 ** -(1 + i % 5), "editor.layers": [1, 2] if i % 2 else [2, 3]},
        "objective": i / 12,
    }
    for i in range(12)
]


@pytest.mark.parametrize("trials", [TRIALS, TRIALS[1:2], [{**TRIALS[1], "objective": 0.0}] * 2])
def test_plots_are_pictures(trials: list[dict[str, Any]]) -> None:
    for png in (
        parallel_coordinates(SPACE, trials),
        parallel_coordinates(SPACE, trials, "min"),
        importance_bars({"editor.lr": 0.75, "editor.layers": 0.25}, "40 trials"),
        pareto_front([("t0000", 0.5, 0.9), ("t0001", 0.9, 0.5), ("t0002", 0.9, 0.5)], ["t0000", "t0001", "t0002"]),
    ):
        assert png is not None
        assert png.startswith(b"\x89PNG")
        width, _ = struct.unpack(">II", png[16:24])
        assert width >= 700


def test_plots_of_nothing_are_nothing() -> None:
    assert parallel_coordinates(SPACE, [{**TRIALS[0], "objective": None}]) is None
    assert importance_bars(None, "too few") is None
    assert pareto_front([], []) is None


@pytest.mark.parametrize("terminal", [False, True])
def test_the_display_says_who_leads(terminal: bool) -> None:
    file = io.StringIO()
    display = TuneDisplay(Console(file=file, force_terminal=terminal, width=160, color_system=None))
    base = {"kind": "trial", "of": 3, "parameters": {"editor.lr": 0.001}}
    with display:
        display({"kind": "phase", "name": "start"})
        display({"kind": "note", "text": "2 trials at a time"})
        for i, (status, value) in enumerate([("finished", 0.8), ("pruned", 0.9), ("failed", None)]):
            name = f"t{i:04d}"
            display({**base, "name": name, "status": "running", "done": i, "running": 1})
            display(
                {**base, "name": name, "status": status, "done": i + 1, "running": 0, "objective": value, "error": ""}
            )
    out = file.getvalue()
    assert "2 trials at a time" in out
    assert display.done == 3
    assert "3 of 3 trials ended, 1 pruned, 1 failed, best 0.8000 by t0000 (lr=0.001)" in out
