"""What a run says while its workers have no room, and since when it counts. With a real cluster: tests/cluster."""

from __future__ import annotations

import os
import re
import threading
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import pytest

import elder
from elder.errors import RunTakenOver
from elder.infra.stores.local import LocalStore
from elder.pipelines.cluster import events as progress
from elder.pipelines.cluster import placement
from elder.pipelines.cluster.events import EventQueue
from elder.pipelines.cluster.placement import PlacementWatch, _fit, needs, waiting_note, worker_resources
from elder.pipelines.cluster.ray_train import worker_environment
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.run.takeover import OlderDriver
from tests.pipelines.fakes import StoreAt, make_config, make_edits


def test_what_is_needed_in_words() -> None:
    cluster = make_config(cluster={"workers": 2, "gpus_per_worker": 0.5, "cpus_per_worker": 3}).cluster
    assert needs(cluster) == "2 workers of 3 CPU and 0.5 GPU (6 CPU, 1 GPU in all)"
    assert needs(make_config(cluster={"workers": 1}).cluster) == "1 worker of 1 CPU (1 CPU in all)"


def test_the_note_says_what_there_is_and_how_long_it_waits() -> None:
    cluster = make_config(cluster={"workers": 2, "wait_for_resources_s": 60}).cluster
    note = waiting_note(cluster, {"CPU": 2.0, "memory": 1e9}, {"CPU": 0.5}, False, 15.2, 44.8)
    assert note == (
        "no room for the workers for 15 s: needed 2 workers of 1 CPU (2 CPU in all); the cluster has 2 CPU, free 0.5 "
        "CPU; waiting 45 s more (cluster.wait_for_resources_s)"
    )
    assert "have been starting for 70 s" in waiting_note(cluster, {}, {}, True, 70.0, 0.0)
    held = waiting_note(cluster, {}, {}, False, 15.0, 45.0, "host one, process 7")
    assert held.endswith("; the older driver of this run still holds it, if it is alive (host one, process 7)")


def test_room_is_counted_by_node() -> None:
    each = worker_resources(make_config(cluster={"workers": 4, "gpus_per_worker": 1}).cluster)
    assert _fit(each, {"CPU": 8.0, "GPU": 2.0}) == 2
    assert _fit(each, {"CPU": 8.0}) == 0
    assert _fit({"CPU": 0.1}, {"CPU": 0.3}) == 3, "tenths must not be lost to rounding"


def test_waiting_counts_from_the_first_state_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    mailbox = EventQueue()
    clock[0] = 105.0
    assert mailbox.waiting() == (5.0, None)
    mailbox.group(True, "controller")
    clock[0] = 110.0
    assert mailbox.waiting() == (10.0, "controller")
    mailbox.group(False, "controller")
    assert mailbox.waiting()[0] == 0
    clock[0] = 200.0
    mailbox.group(True, "controller")
    clock[0] = 203.0
    assert mailbox.waiting()[0] == 3.0


def test_a_submitted_job_takes_its_code_from_rays_package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cluster = make_config(cluster={"workers": 2}).cluster
    root = Path(elder.__file__).resolve().parent.parent
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    monkeypatch.chdir(root)
    assert "PYTHONPATH" not in worker_environment(cluster)
    monkeypatch.chdir(tmp_path)
    assert worker_environment(cluster)["PYTHONPATH"].split(os.pathsep)[0] == str(root)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR")
    monkeypatch.chdir(root)
    assert worker_environment(cluster)["PYTHONPATH"].split(os.pathsep)[0] == str(root)


def test_a_cluster_that_cannot_be_joined_is_explained_with_its_token() -> None:
    from elder.pipelines.cluster.ray_train import unreachable

    text = unreachable("h:6379", RuntimeError("\nno answer\nmore"), {"RAY_AUTH_TOKEN": "hunter2"})
    assert text.startswith("the Ray cluster 'h:6379' cannot be reached: no answer\n")
    assert "export RAY_AUTH_MODE=token" in text
    assert "hunter2" not in text
    told = unreachable("h:6379", RuntimeError(), {"RAY_AUTH_TOKEN_PATH": "f", "RAY_AUTH_MODE": "token"})
    assert "The token comes from RAY_AUTH_TOKEN_PATH" in told
    assert "elder submit --address" in told


class _Mailbox:
    """The workers have been waited for since it was made; every question takes a second."""

    def __init__(self) -> None:
        seconds = count(1.0)
        self.waiting = SimpleNamespace(remote=lambda: (next(seconds), None))


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """A cluster without room; set when the run gives up."""
    given_up = threading.Event()
    monkeypatch.setattr(placement.ray, "get", lambda answer: answer)
    for name, answer in (("cluster_resources", {"CPU": 2.0}), ("available_resources", {}), ("nodes", [])):
        monkeypatch.setattr(placement.ray, name, lambda answer=answer: answer)
    monkeypatch.setattr(placement.ray.util, "placement_group_table", dict)
    monkeypatch.setattr(placement, "free_by_node", dict)
    monkeypatch.setattr(placement, "end_controller", lambda mailbox: given_up.set())
    return given_up


def _watch(root: Path, notes: list[str]) -> PlacementWatch:
    config = make_config(cluster={"workers": 2, "wait_for_resources_s": 40})
    drivers = RunState(LocalStore(root), "run-1").drivers
    drivers.take({"host": "one"})
    job = RunSpec(config, make_edits(2), StoreAt(str(root)), claim=drivers.take({"host": "two"}))
    return PlacementWatch(
        _Mailbox(), config.cluster, lambda event: notes.append(event["text"]), OlderDriver(job), look_s=0.001
    )


def test_who_finds_no_room_leaves_the_run_to_the_older_driver(tmp_path: Path, ended: threading.Event) -> None:
    notes: list[str] = []
    with _watch(tmp_path, notes) as watch:
        assert ended.wait(30)
    assert "The run is left to its older driver, which continues if it is alive (host one)" in str(watch.error)
    assert all("the older driver of this run still holds it, if it is alive (host one)" in note for note in notes)
    assert len(notes) == 2
    RunState(LocalStore(tmp_path), "run-1").drivers.check(1)  # it continues


def test_who_was_handed_the_run_waits_for_the_room_of_the_older_driver(
    tmp_path: Path, ended: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lets go just when the newer one would give up: its room is about to come, and nobody else is left."""
    real = OlderDriver.left_to_it

    def at_the_last_moment(older: OlderDriver) -> bool:
        with pytest.raises(RunTakenOver):
            RunState(LocalStore(tmp_path), "run-1").drivers.check(1)
        return real(older)

    monkeypatch.setattr(OlderDriver, "left_to_it", at_the_last_moment)
    notes: list[str] = []
    with _watch(tmp_path, notes) as watch:
        assert ended.wait(30)
    waited = float(re.search(r"no room for the workers for (\d+) s", str(watch.error))[1])  # type: ignore[index]
    assert waited > 80, "it gave up after the room was promised"
    assert "older driver" not in notes[-1]
    assert "older driver" not in str(watch.error)
