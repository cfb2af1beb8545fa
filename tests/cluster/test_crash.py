"""Workers, drivers and whole machines die in the middle of a stage; the same command ends in the same state.

The editor is a fake whose state depends on every edit, its order and its multiplicity, and whose sums over ranks
are exact: the digests of an undisturbed run in one process are the truth for every run here.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from elder.errors import ElderError
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.run.commits import RunState
from tests.cluster.fake_run import EDITS
from tests.pipelines.fakes import FakeKit, Mishap, RecordingTracker, StoreAt, make_config, make_edits

pytestmark = pytest.mark.cluster
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    root = tmp_path_factory.mktemp("undisturbed")
    run_edit(make_config(), StoreAt(str(root)), RecordingTracker(), edits=make_edits(EDITS), kit=FakeKit())
    return digests(root)


def digests(root: Path) -> list[str]:
    return [commit.state_digest for commit in RunState(StoreAt(str(root))(), "run-1").commits()]


def run(root: Path, workers: int = 2, kit: FakeKit | None = None, tracker: Any = None) -> dict[str, Any]:
    config = make_config(cluster={"workers": workers, "sharding": "none"})
    return run_edit(
        config, StoreAt(str(root)), tracker or RecordingTracker(), edits=make_edits(EDITS), kit=kit or FakeKit()
    )


@pytest.mark.nodes
def test_an_error_that_explains_itself_is_not_tried_again(tmp_path: Path, ray_cluster: None) -> None:
    """Only one rank refuses, the other waits for it: the run must end all the same, and say why."""
    kit = FakeKit(mishaps=(Mishap("refuse", 6, "", rank=1, once=False),))
    with pytest.raises(ElderError, match="the fake editor will not"):
        run(tmp_path / "store", kit=kit)
    assert len(digests(tmp_path / "store")) == 1


@pytest.mark.nodes
def test_an_error_that_comes_back_ends_the_run(tmp_path: Path, ray_cluster: None) -> None:
    kit = FakeKit(mishaps=(Mishap("raise", 6, "", once=False),))
    with pytest.raises(ElderError, match=r"failed again in the same way.*stumbled"):
        run(tmp_path / "store", workers=1, kit=kit)


def _driver(*arguments: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.cluster.fake_run", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _wait_for(path: Path, process: subprocess.Popen[bytes], seconds: float = 180) -> None:
    end = time.monotonic() + seconds
    while not path.exists():
        assert process.poll() is None, f"the driver ended with {process.returncode} before it got stuck"
        assert time.monotonic() < end, f"{path} did not appear"
        time.sleep(0.2)


@pytest.mark.parametrize(
    ("how", "struck"),
    [
        pytest.param("driver", False, marks=pytest.mark.nodes),
        pytest.param("everything", True),
        pytest.param("interrupt", False, marks=pytest.mark.nodes),
    ],
    ids=["driver", "worker-and-everything", "interrupt"],
)
def test_a_killed_driver_continues_with_another_number_of_workers(
    tmp_path: Path, undisturbed: list[str], how: str, struck: bool
) -> None:
    """kill -9 of the driver or of all processes of its cluster, or Ctrl-C, while both workers are inside a stage.

    Where `struck`, kill -9 of rank 1 in the stage before costs that stage only: Ray starts the group again, which goes
    on from the last commit.
    """
    marker, wounded = tmp_path / "hangs", [tmp_path / "struck"] if struck else []
    driver = _driver(tmp_path / "store", marker, *wounded)
    family: list[psutil.Process] = []
    try:
        _wait_for(marker, driver)
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGINT if how == "interrupt" else signal.SIGKILL)
        if how == "everything":
            for process in family:
                _kill(process)
        assert driver.wait(180) != 0
        # Ray's agents look for their node once in a while only; they run nothing of ours.
        _, alive = psutil.wait_procs([p for p in family if "Agent" not in _name(p)], timeout=60)
        assert not alive, "the driver's cluster outlives it"
    finally:
        for process in family:
            _kill(process)
    stood = RunState(StoreAt(str(tmp_path / "store"))(), "run-1").commits()
    assert [commit.state_digest for commit in stood] == undisturbed[: 1 + struck]
    assert len({commit.attempt for commit in stood}) == 1 + struck
    tracker = RecordingTracker()
    result = run(tmp_path / "store", workers=0, tracker=tracker)
    assert [stage["state_digest"] for stage in result["stages"]] == undisturbed
    assert sorted(tracker.metrics) == [4, 8, 10]  # stage 0 too, which the killed driver may not have logged
    assert result["final"]["reliability.generate"] == 1.0
    commits = RunState(StoreAt(str(tmp_path / "store"))(), "run-1").commits()
    assert commits[: len(stood)] == stood
    assert [c.world["workers"] for c in commits] == ([2, 2, 1] if struck else [2, 1, 1])


def _name(process: psutil.Process) -> str:
    try:
        return str(process.name())
    except psutil.NoSuchProcess:
        return ""


def _kill(process: psutil.Process) -> None:
    with contextlib.suppress(psutil.NoSuchProcess):
        process.kill()
