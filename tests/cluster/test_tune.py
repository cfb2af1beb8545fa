"""Searches on real Ray: resident workers and groups, processes that die, a driver that is killed.

The fake editor's state betrays every edit that is lost, doubled or reordered, and the score follows from it, so a
search without Ray in one process is the truth for every search here.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

from elder.errors import UnreachableError
from elder.pipelines.config.search import TuneConfig
from elder.pipelines.run.commits import RunState
from elder.pipelines.search.trial_loop import run_on_cluster
from tests.pipelines.fakes import Mishap, StoreAt
from tests.pipelines.search.test_trials import essence
from tests.pipelines.tune_fakes import TuneKit, make_search, search

ROOT = Path(__file__).resolve().parents[2]


def on_cluster(root: Path, config: TuneConfig, **more: Any) -> dict[str, Any]:
    return search(root, config, runner=run_on_cluster, **more)


def digests(root: Path) -> dict[str, list[str]]:
    """State digests of all runs in a store."""
    runs = sorted(path.name for path in (root / "store" / "runs").iterdir())
    store = StoreAt(str(root / "store"))()
    return {run: [commit.state_digest for commit in RunState(store, run).commits()] for run in runs}


@pytest.mark.cluster
def test_one_process_runs_all_trials_on_one_base_and_survives_its_death(tmp_path: Path, ray_cluster: None) -> None:
    """TPE, one trial at a time; the worker is killed in the second stage of the first trial."""
    config = make_search(searcher="tpe", trials=5, finalists=1, concurrent=1)
    kit = TuneKit(mishaps=(Mishap("kill", 6, str(tmp_path / "struck")),), loads=str(tmp_path / "loads"))
    events: list[Mapping[str, Any]] = []
    result = on_cluster(tmp_path / "a", config, kit=kit, on_event=events.append)
    expected = search(tmp_path / "b", config)
    assert essence(result) == essence(expected)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert (tmp_path / "struck").exists()
    # Five trials and a repetition: the base was loaded by the first process and by the one after it.
    assert (tmp_path / "loads").read_text().split() == ["s1-t0000", "s1-t0000"]
    assert any("resumes from its last committed stage" in event.get("text", "") for event in events)


@pytest.mark.nodes
def test_a_group_of_workers_stays_and_survives_the_death_of_one(tmp_path: Path, ray_cluster: None) -> None:
    """Two workers a trial: rank 1 is killed in one trial, rank 0 alone refuses another one."""
    config = make_search(cluster={"workers": 2}, trials=3, finalists=0, concurrent=1)
    kill = Mishap("kill", 6, str(tmp_path / "struck"), rank=1)
    refuse = Mishap("refuse", 5, str(tmp_path / "refused"), after=str(tmp_path / "a/store/tunes/s1/results/0000.json"))
    kit = TuneKit(mishaps=(kill, refuse), loads=str(tmp_path / "loads"))
    result = on_cluster(tmp_path / "a", config, kit=kit)
    search(tmp_path / "b", config)
    assert [trial["status"] for trial in result["trials"]] == ["finished", "failed", "finished"]
    assert "will not" in result["trials"][1]["error"]
    ours, expected = digests(tmp_path / "a"), digests(tmp_path / "b")
    assert len(ours["s1-t0001"]) == 1
    assert {**ours, "s1-t0001": expected["s1-t0001"]} == expected
    loads = (tmp_path / "loads").read_text().split()
    assert loads == ["s1-t0000", "s1-t0000", "s1-t0002"]  # the group started three times, once for each mishap more
    world = RunState(StoreAt(str(tmp_path / "a" / "store"))(), "s1-t0002").commits()[-1].world
    assert world["workers"] == 2


@pytest.mark.cluster
def test_workers_that_do_not_stay_load_a_base_for_each_trial(tmp_path: Path, ray_cluster: None) -> None:
    config = make_search(trials=3, finalists=0, concurrent=1, resident=False)
    kit = TuneKit(loads=str(tmp_path / "loads"))
    assert essence(on_cluster(tmp_path / "a", config, kit=kit)) == essence(search(tmp_path / "b", config))
    assert (tmp_path / "loads").read_text().split() == ["s1-t0000", "s1-t0001", "s1-t0002"]


@pytest.mark.cluster
def test_asha_stops_bad_trials_between_stages(tmp_path: Path, ray_cluster: None) -> None:
    """Rates from good to bad, one at a time: with a reduction of 2 what is below the median is stopped."""
    rates = [1e-3, 1e-2, 1e-4, 1e-1, 3e-3]
    config = make_search(
        searcher="grid", scheduler="asha", reduction=2, space={"editor.lr": {"choice": rates}}, concurrent=1,
        finalists=1,
    )  # fmt: skip
    result = on_cluster(tmp_path, config)
    status = {trial["parameters"]["editor.lr"]: (trial["status"], trial["stages"]) for trial in result["trials"]}
    assert status[1e-3] == ("finished", 3)
    assert all(status[rate] == ("pruned", 1) for rate in (1e-2, 1e-4, 1e-1))
    assert result["best"]["parameters"] == {"editor.lr": 1e-3}
    assert [run for run in digests(tmp_path) if "-f" in run] == ["s1-f01-s1"]


@pytest.mark.nodes
def test_a_store_that_goes_away_ends_the_search_without_judging_the_trial(tmp_path: Path, ray_cluster: None) -> None:
    config = make_search(trials=2, finalists=0)
    kit = _AwayKit(gone=str(tmp_path / "gone"))
    with pytest.raises(UnreachableError, match="the same command resumes"):
        on_cluster(tmp_path, config, kit=kit)
    assert list((tmp_path / "store" / "tunes" / "s1").glob("results/*")) == []
    assert [t["status"] for t in on_cluster(tmp_path, config)["trials"]] == ["finished", "finished"]


class _AwayKit(TuneKit):
    """Its base cannot be fetched because the store does not answer."""

    def __init__(self, gone: str) -> None:
        super().__init__(loads=gone)

    def base(self, job: Any, runtime: Any) -> Any:
        raise UnreachableError("the store does not answer")


@pytest.mark.nodes
def test_a_killed_driver_resumes_and_ends_with_the_same_best(tmp_path: Path, ray_cluster: None) -> None:
    """kill -9 of the driver while its second trial is in the middle of its second stage."""
    marker = tmp_path / "hangs"
    command = [sys.executable, "-m", "tests.cluster.fake_tune", str(tmp_path / "a"), str(marker)]
    driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family: list[psutil.Process] = []
    try:
        end = time.monotonic() + 180
        while not marker.exists():
            assert driver.poll() is None
            assert time.monotonic() < end
            time.sleep(0.2)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        assert driver.wait(60) != 0
    finally:
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    before = digests(tmp_path / "a")
    assert {run: len(states) for run, states in before.items()} == {"s1-t0000": 3, "s1-t0001": 1}
    config = make_search(cluster={"address": "local"}, searcher="tpe", concurrent=1)
    loads = str(tmp_path / "loads")
    resumed = on_cluster(tmp_path / "a", config, kit=TuneKit(loads=loads))
    assert essence(resumed) == essence(search(tmp_path / "b", config))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert Path(loads).read_text().split() == ["s1-t0001"]  # trial 0 was not touched again
