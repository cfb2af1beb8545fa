"""What a run says while its workers have no room, and since when it counts. With a real cluster: tests/cluster."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import elder
from elder.pipelines.cluster import events as progress
from elder.pipelines.cluster.events import EventQueue
from elder.pipelines.cluster.placement import _fit, needs, waiting_note, worker_resources
from elder.pipelines.cluster.ray_train import worker_environment
from tests.pipelines.fakes import make_config


def test_what_is_needed_in_words() -> None:
    cluster = make_config(cluster={"workers": 2, "gpus_per_worker": 0.5, "cpus_per_worker": 3}).cluster
    assert needs(cluster) == "2 workers of 3 CPU and 0.5 GPU (6 CPU, 1 GPU in all)"
    assert needs(make_config(cluster={"workers": 1}).cluster) == "1 worker of 1 CPU (1 CPU in all)"


def test_the_note_says_what_there_is_and_how_long_it_waits() -> None:
    cluster = make_config(cluster={"workers": 2, "wait_for_resources_s": 60}).cluster
    note = waiting_note(cluster, {"CPU": 2.0, "memory": 1e9}, {"CPU": 0.5}, False, 15.2)
    assert note == (
        "no room for the workers for 15 s: needed 2 workers of 1 CPU (2 CPU in all); the cluster has 2 CPU, free 0.5 "
        "CPU; waiting 45 s more (cluster.wait_for_resources_s)"
    )
    assert "have been starting for 70 s" in waiting_note(cluster, {}, {}, True, 70.0)


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
