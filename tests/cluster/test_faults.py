"""What a run depends on goes away in the middle: tracker, store, room on the disk; or it gets a rival.

The driver is a process of its own without Ray (what workers do with a store is the same there). The digests of an
undisturbed run are the truth.
"""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from elder.infra.stores.open import open_store
from tests.cluster.driver import Order, carry_out
from tests.cluster.outage import mlflow_that_fails
from tests.cluster.record import Run, Story, digests
from tests.infra.servers import FaultyProxy, faulty_proxy

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(580)]
OUTAGE_S = 25.0  # more than two answers of MLflow are waited for (tests/cluster/driver.py)
CREATING = ("runs/create", "runs/log-batch", "logged-models", "model-versions/create")
MANY = 30  # stages of four edits, for runs that outlive an outage


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[str]]:
    """State digests of runs that nothing disturbs, by the number of edits."""
    found: dict[int, list[str]] = {}

    def of(edits: int = 10) -> list[str]:
        if edits not in found:
            root = tmp_path_factory.mktemp("truth")
            carry_out(Order(store=str(root), events="", edits=edits), lambda event: None)
            found[edits] = digests(root)
        return found[edits]

    return of


Truth = Callable[[int], list[str]]


# MLflow


@pytest.mark.parametrize("how", ["held", "killed"])
def test_mlflow_gone_for_a_while_is_caught_up_with(
    tmp_path: Path, empty_database: Path, truth: Truth, how: str
) -> None:
    """SIGSTOP or kill -9 in the middle. The edits go on; in the end the record is complete, nothing in it twice."""
    edits = 4 * MANY
    with mlflow_that_fails(tmp_path / "mlflow", empty_database) as server:
        run = Run(tmp_path, mlflow=server.url, edits=edits, pause=1.0, tracking={"retry_timeout_s": 180})
        run.start()
        run.wait_for(lambda event: event["kind"] == "committed" and event["stage"] == 3)
        story = Story(f"MLflow {how} for {OUTAGE_S:g} s")
        story.strike()
        before = len(run.digests)
        if how == "held":
            with server.held():
                time.sleep(OUTAGE_S)
                during = len(run.digests)
        else:
            server.kill()
            time.sleep(OUTAGE_S)
            during = len(run.digests)
            server.start()
        assert during > before, "the edits waited for the record"
        assert run.end(400) == 0
        story.tell(run, truth(edits), replayed=False)
        assert run.digests == truth(edits)
        _check_record(server.url, run)


def test_answers_that_mlflow_loses_make_nothing_twice(tmp_path: Path, empty_database: Path, truth: Truth) -> None:
    """The server does its work, the answer is lost on the way, the request is sent again: one of everything."""
    with mlflow_that_fails(tmp_path / "mlflow", empty_database) as server, faulty_proxy(server.url) as proxy:
        struck: Counter[str] = Counter()

        def rule(method: str, path: str) -> str:
            name = path_of(path).removeprefix("/api/2.0/mlflow/")
            struck[name] += method == "POST" and name in CREATING
            return "lost" if method == "POST" and name in CREATING and struck[name] % 2 else ""

        proxy.rule = rule
        story = Story("MLflow: every first answer to a request that makes something is lost")
        story.strike()
        run = Run(tmp_path, mlflow=proxy.url, tracking={"register": "facts"})
        run.start()
        assert run.end() == 0, run.log_text()
        assert all(struck[name] > 1 for name in CREATING), struck
        story.tell(run, truth(10), replayed=False)
        _check_record(server.url, run)
        _check_versions(server.url)


def _check_versions(url: str) -> None:
    from mlflow import MlflowClient

    assert len(MlflowClient(url, url).search_model_versions("name = 'facts'")) == 1


def _check_record(url: str, run: Run) -> None:
    """One tracked run; every metric once at every step; one READY model for each stage; a table for each stage."""
    from mlflow import MlflowClient

    client = MlflowClient(url, url)
    experiment = client.get_experiment_by_name("test").experiment_id
    runs = client.search_runs([experiment])
    assert len(runs) == 1
    assert runs[0].info.status == "FINISHED"
    stages = len(run.digests)
    steps = [min(4 * (stage + 1), run.order.edits) for stage in range(stages)]
    for key in ("reliability.generate", "time.edit_s", "editor.seen"):
        assert sorted(point.step for point in client.get_metric_history(runs[0].info.run_id, key)) == steps, key
    models = client.search_logged_models([experiment], max_results=200)
    found = Counter((model.tags["elder.stage"], str(model.status)) for model in models)
    assert found == Counter((str(stage), "READY") for stage in range(stages))
    tables = {item.path for item in client.list_artifacts(runs[0].info.run_id, "edits")}
    assert tables == {f"edits/stage-{stage:04d}.json" for stage in range(stages)}


# the object store


@pytest.fixture
def s3(s3_endpoint: str, bucket: str) -> Iterator[tuple[str, dict[str, Any], FaultyProxy]]:
    """A bucket's address, the settings that lead to it through a faulty proxy, and the proxy."""
    with faulty_proxy(s3_endpoint) as proxy:
        settings = {"endpoint_url": proxy.url, "addressing": "path", "attempts": 2}
        yield f"s3://{bucket}/some", settings, proxy


def s3_run(tmp_path: Path, s3: tuple[str, dict[str, Any], FaultyProxy], **more: Any) -> Run:
    store, settings, _ = s3
    return Run(tmp_path, store=store, s3=settings, **more)


def path_of(request: str) -> str:
    return unquote(urlsplit(request).path)


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_a_store_away_for_a_while_is_waited_for(tmp_path: Path, s3: Any, truth: Truth, fault: str) -> None:
    """Every request fails for 15 s, in the middle of a stage's upload: no stage is lost, none is done twice."""
    proxy: FaultyProxy = s3[2]
    begun = threading.Event()

    def rule(method: str, path: str) -> str:
        if method == "PUT" and "stages/000001/" in path and not begun.is_set():
            begun.set()
            ends.append(time.monotonic() + 15)
        return fault if ends and time.monotonic() < ends[0] else ""

    ends: list[float] = []
    proxy.rule = rule
    run = s3_run(tmp_path, s3, tracking={"retry_timeout_s": 120})
    story = Story(f"S3: {fault} for 15 s")
    story.strike()
    run.start()
    assert run.end() == 0, run.log_text()
    assert begun.is_set()
    assert any(fault in entry for entry in proxy.seen)
    assert any("the store does not answer" in note for note in _notes(run))
    story.tell(run, truth(10), replayed=False)
    assert run.digests == truth(10)
    assert len(set(run.attempts)) == 1


def test_a_store_that_stays_away_ends_the_run_and_the_same_command_continues(
    tmp_path: Path, s3: Any, truth: Truth
) -> None:
    proxy: FaultyProxy = s3[2]
    proxy.rule = lambda method, path: "503" if method == "PUT" and "stages/000001/" in path else ""
    run = s3_run(tmp_path, s3, tracking={"retry_timeout_s": 3})
    run.start()
    assert run.end() == 3
    assert "failed again and again" in run.log_text()
    proxy.rule = lambda method, path: ""
    assert run.digests == truth(10)[:1]
    story = Story("S3 away for longer than the patience; the same command again")
    story.strike()
    again = s3_run(tmp_path, s3)
    again.start()
    assert again.end() == 0
    story.tell(again, truth(10))
    assert again.digests == truth(10)


def test_a_slow_store_is_only_slow(tmp_path: Path, s3: Any, truth: Truth) -> None:
    proxy: FaultyProxy = s3[2]
    proxy.delay_s = 1.0
    run = s3_run(tmp_path, s3, edits=8)
    story = Story("S3: 1 s for every request")
    story.strike()
    run.start()
    assert run.end() == 0
    proxy.delay_s = 0.0
    story.tell(run, truth(8), replayed=False)
    assert run.digests == truth(8)


def test_connections_reset_in_the_middle_of_large_uploads(tmp_path: Path, s3: Any, truth: Truth) -> None:
    """Adapters of 20 MB go in parts; every third part is cut off by a reset."""
    proxy: FaultyProxy = s3[2]
    count = Counter[str]()

    def rule(method: str, path: str) -> str:
        count[method] += "partNumber" in path
        return "reset" if method == "PUT" and "partNumber" in path and count["PUT"] % 3 == 0 else ""

    proxy.rule = rule
    run = s3_run(tmp_path, s3, ballast=5_000_000)
    story = Story("S3: connections reset in the middle of multipart uploads")
    story.strike()
    run.start()
    assert run.end() == 0, run.log_text()
    assert proxy.seen.count("PUT reset") > 2
    story.tell(run, truth(10), replayed=False)
    assert run.digests == truth(10)
    assert len(set(run.attempts)) == 1
    store = open_store(s3[0], s3[1])
    kept = [key for key in store.list("runs/run-1/stages/") if key.endswith("adapter.safetensors")]
    assert len(kept) == 3  # whole, once each


def test_a_commit_whose_answer_is_lost_every_time_is_ours(tmp_path: Path, s3: Any, truth: Truth) -> None:
    """COMMIT is written, but the store falls silent for 8 s: the run must find its own commit there, not a rival's."""
    proxy: FaultyProxy = s3[2]
    silent: list[float] = []

    def rule(method: str, path: str) -> str:
        if silent:
            return "503" if time.monotonic() < silent[0] else ""
        if method == "PUT" and path_of(path).endswith("stages/000001/COMMIT.json"):
            silent.append(time.monotonic() + 8)
            return "lost"
        return ""

    proxy.rule = rule
    run = s3_run(tmp_path, s3)
    story = Story("S3: a commit is written, its answer lost, then 503 for 8 s")
    story.strike()
    run.start()
    assert run.end() == 0, run.log_text()
    assert proxy.seen.count("PUT lost") == 1
    story.tell(run, truth(10), replayed=False)
    assert run.digests == truth(10)
    assert len(set(run.attempts)) == 1


# rivals


@pytest.mark.parametrize("place", ["directory", "s3"])
def test_of_two_drivers_the_newer_one_owns_the_run(
    tmp_path: Path, s3: Any, database: Path, truth: Truth, place: str
) -> None:
    """The older one ends with exit code 5 in its stage and says who has taken over; the record is the newer's."""
    more: dict[str, Any] = {"store": s3[0], "s3": s3[1]} if place == "s3" else {"store": str(tmp_path / "store")}
    older = Run(tmp_path / "older", pause=2.0, mlflow=str(database), **more)
    newer = Run(tmp_path / "newer", pause=2.0, mlflow=str(database), **more)
    older.start()
    older.wait_for(lambda event: event["kind"] == "phase" and event["name"] == "edit" and event["stage"] == 1)
    story = Story(f"a second driver is started for the same run ({place})")
    story.strike()
    newer.start()
    assert older.end() in (0, 5)
    assert newer.end() == 0, newer.log_text()
    story.tell(newer, truth(10), replayed=False)
    assert newer.digests == truth(10)
    if older.process is not None and older.process.returncode == 5:
        assert "another driver has taken over run 'run-1'" in older.log_text()
    _check_record_file(str(database), newer)


def test_two_drivers_at_the_same_moment(tmp_path: Path, truth: Truth) -> None:
    """Exactly one of them loses, and it loses cleanly."""
    runs = [Run(tmp_path / name, pause=2.0, store=str(tmp_path / "store")) for name in ("a", "b")]
    for run in runs:
        run.start()
    codes = sorted(run.end() for run in runs)
    assert codes == [0, 5]
    loser = next(run for run in runs if run.process is not None and run.process.returncode == 5)
    assert "error: another driver has taken over run 'run-1'" in loser.log_text()
    assert runs[0].digests == truth(10)
    Story("two drivers are started at the same moment").tell(runs[0], truth(10), replayed=False)


def _check_record_file(database: str, run: Run) -> None:
    from mlflow import MlflowClient

    from elder.infra.tracking.uri import locate

    uri = locate(database).uri
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("test").experiment_id
    runs = client.search_runs([experiment])
    assert [found.info.status for found in runs] == ["FINISHED"]
    models = client.search_logged_models([experiment])
    assert Counter(m.tags["elder.stage"] for m in models if str(m.status) == "READY") == Counter("012")


# the disk


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)], capture_output=True)
    if made.returncode:
        pytest.skip("a small file system can be mounted by root only")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.parametrize("how", ["full", "read-only"])
def test_a_disk_that_is_full_or_read_only(tmp_path: Path, small_disk: Path, truth: Truth, how: str) -> None:
    """Exit 3 with the reason; what is committed stands; with room again the same command continues."""
    store = str(small_disk / "store")
    run = Run(tmp_path / "first", pause=1.0, store=store, tracking={"retry_timeout_s": 2})
    run.start()
    run.wait_for(lambda event: event["kind"] == "phase" and event["name"] == "edit" and event["stage"] == 1)
    story = Story(f"the store's disk is {how}")
    story.strike()
    _spoil(small_disk, how)
    assert run.end() == 3, run.log_text()
    said = {"full": "No space left", "read-only": "Read-only file system"}[how]
    assert said in run.log_text()
    assert run.digests == truth(10)[:1]
    _mend(small_disk, how)
    again = Run(tmp_path / "second", store=store)
    again.start()
    assert again.end() == 0, again.log_text()
    story.tell(again, truth(10))
    assert again.digests == truth(10)


def test_room_that_comes_in_time_is_enough(tmp_path: Path, small_disk: Path, truth: Truth) -> None:
    run = Run(tmp_path / "first", pause=1.0, store=str(small_disk / "store"))
    run.start()
    run.wait_for(lambda event: event["kind"] == "phase" and event["name"] == "edit" and event["stage"] == 1)
    story = Story("the store's disk is full for a while")
    story.strike()
    _spoil(small_disk, "full")
    run.wait_for(lambda event: event["kind"] == "note" and "No space left" in event["text"])
    _mend(small_disk, "full")
    assert run.end() == 0
    story.tell(run, truth(10), replayed=False)
    assert run.digests == truth(10)
    assert len(set(run.attempts)) == 1


def _spoil(disk: Path, how: str) -> None:
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        return
    with (disk / "ballast").open("wb") as file:
        try:
            while True:
                os.write(file.fileno(), bytes(1024))
        except OSError:
            return


def _mend(disk: Path, how: str) -> None:
    if how == "read-only":
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    else:
        (disk / "ballast").unlink()


def _notes(run: Run) -> list[str]:
    return [event["text"] for event in run.events() if event["kind"] == "note"]
