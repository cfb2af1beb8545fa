"""Who does the runs of a search: several at a time, stopped early, on workers that die, with a store that is away."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from elder.errors import UnreachableError
from elder.pipelines.cluster.early_stopping import EarlyStopping
from elder.pipelines.config.run import RunConfig
from elder.pipelines.run.spec import EventHandler, RunSpec
from elder.pipelines.search.trial_loop import TrialLoop
from elder.pipelines.search.trials import Trials
from tests.pipelines.tune_fakes import TuneKit, make_search, search
from tests.pipelines.workers_here import WorkersHere


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing and collecting garbage are tested elsewhere."""
    monkeypatch.setattr("elder.pipelines.run.stepping.gc", SimpleNamespace(collect=lambda: 0))
    monkeypatch.setattr("elder.pipelines.search.plots.to_png", lambda draw, size=(1, 1): b"\x89PNG" * 40)


class Here:
    """A runner: the loop, on workers of this process."""

    def __init__(self, workers: WorkersHere, early: EarlyStopping | None = None) -> None:
        self.workers, self.early = workers, early

    def __call__(self, trials: Trials, job: Callable[[RunConfig], RunSpec], on_event: EventHandler) -> None:
        trials.concurrent = self.workers.count
        TrialLoop(trials, job, self.workers, self.early).run()


def statuses(result: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(trial["status"], trial["stages"]) for trial in result["trials"]]


def test_all_trials_and_repetitions_are_done(tmp_path: Path) -> None:
    workers = WorkersHere(2)
    result = search(tmp_path, runner=Here(workers))
    assert statuses(result) == [("finished", 3)] * 6
    assert sorted(workers.begun) == [f"s1-f0{rank}-s1" for rank in (1, 2)] + [f"s1-t000{i}" for i in range(6)]
    assert workers.begun[-1].startswith("s1-f"), "the best are known when all trials have ended"


def test_bad_trials_are_stopped_between_stages_and_repetitions_are_not(tmp_path: Path) -> None:
    """Rates from good to bad, one at a time: with a reduction of 2 what is below the median is stopped."""
    rates = [1e-3, 1e-2, 1e-4, 1e-1, 3e-3]
    config = make_search(
        searcher="grid", scheduler="asha", space={"editor.lr": {"choice": rates}}, concurrent=1, finalists=1
    )
    workers = WorkersHere()
    result = search(tmp_path, config, runner=Here(workers, EarlyStopping(3, 1, 2, "max")))
    found = statuses(result)
    assert found[:4] == [("finished", 3), ("pruned", 1), ("pruned", 1), ("pruned", 1)]
    assert found[4][0] == "pruned", "the last one is above the median at first"
    assert workers.begun[-1] == "s1-f01-s1"
    assert len(result["finalists"][0]["objectives"]) == 2


def test_a_trial_whose_worker_dies_for_good_has_failed(tmp_path: Path) -> None:
    events: list[Mapping[str, Any]] = []
    result = search(tmp_path, runner=Here(WorkersHere(dies_in="t0001")), on_event=events.append)
    assert [trial["trial"] for trial in result["trials"] if trial["status"] == "failed"] == ["t0001"]
    assert result["trials"][1]["error"] == "its process ended: killed"
    notes = [event["text"] for event in events if event["kind"] == "note"]
    assert "t0001: its process ended: killed; it resumes from its last committed stage" in notes


def test_a_stage_without_an_objective_ends_its_trial(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="no trial came to its end") as caught:
        search(tmp_path, make_search(objective=["edit.nothing"]), runner=Here(WorkersHere(2)))
    assert "edit.nothing is not there or no number after stage 0" in str(caught.value)


def test_a_store_that_is_away_ends_the_search_without_judging_a_trial(tmp_path: Path) -> None:
    class AwayKit(TuneKit):
        def base(self, job: Any, runtime: Any) -> Any:
            raise UnreachableError("the store does not answer")

    workers = WorkersHere(2)
    with pytest.raises(UnreachableError, match="does not answer"):
        search(tmp_path, runner=Here(workers), kit=AwayKit())
    assert workers.aborted.is_set()
    assert list((tmp_path / "store" / "tunes" / "s1").glob("results/*")) == []


def test_what_ended_before_decides_too_and_a_stage_counts_once() -> None:
    early = EarlyStopping(3, 1, 2, "max", past=[[0.9, 0.9, 0.9], [0.7]])
    assert not early.continues("t0002", 0, 0.5)
    assert early.continues("t0003", 0, 0.95)
    assert early.continues("t0003", 0, 0.95), "its worker died, and another one reports the stage again"
    assert early.continues("t0003", 1, 0.95)
    low = EarlyStopping(3, 1, 2, "min", past=[[0.2]])
    assert (low.continues("a", 0, 0.5), low.continues("b", 0, 0.1)) == (False, True)


def test_grace_protects_the_first_stages() -> None:
    early = EarlyStopping(4, 2, 2, "max", past=[[0.9, 0.9, 0.9]])
    assert early.continues("t0001", 0, 0.1)
    assert not early.continues("t0001", 1, 0.1)
