"""What the Ray runner decides without starting Ray."""

from __future__ import annotations

import os
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from elder.errors import ConfigError, GateError
from elder.pipelines.cluster import ray_train as train_runner
from elder.pipelines.cluster.ray_train import _explain, _portable, driver_environment, worker_environment
from tests.pipelines.fakes import make_config


@pytest.mark.parametrize(
    ("workers", "beside", "told", "wanted"),
    [(8, 1, None, 16), (8, 4, None, 4), (3, 3, None, 5), (64, 32, None, 1), (8, 1, 3, 3)],
    ids=["a-node-each", "two-nodes", "a-rest", "more-than-cores", "as-told"],
)
def test_workers_share_the_cores_of_their_own_node(
    monkeypatch: pytest.MonkeyPatch, workers: int, beside: int, told: int | None, wanted: int
) -> None:
    """On nodes of 16 cores; the driver's own machine, which has others, plays no part."""
    set_to: list[int] = []
    monkeypatch.setattr(train_runner, "usable_cores", lambda: 16)
    monkeypatch.setattr("torch.set_num_threads", set_to.append)
    monkeypatch.setattr(
        train_runner.ray.train, "get_context", lambda: SimpleNamespace(get_local_world_size=lambda: beside)
    )
    cluster = {"workers": workers, **({"threads_per_worker": told} if told else {})}
    job: Any = SimpleNamespace(config=make_config(cluster=cluster), sharding="none")
    train_runner.make_runtime(job, 0, 1)
    assert set_to == [wanted]


def test_processes_begin_with_one_thread_or_as_many_as_they_are_told() -> None:
    """Until a worker knows its node: Ray would give it as many as it reserves."""
    for told, wanted in ((None, "1"), (3, "3")):
        found = worker_environment(make_config(cluster={"workers": 2, "threads_per_worker": told}).cluster)
        assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == wanted


def test_cpu_workers_tell_deepspeed_so() -> None:
    assert worker_environment(make_config(cluster={"workers": 2}).cluster)["DS_ACCELERATOR"] == "cpu"
    assert "DS_ACCELERATOR" not in worker_environment(make_config(cluster={"workers": 2, "gpus_per_worker": 1}).cluster)


def test_the_drivers_environment_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_CHDIR_TO_TRIAL_DIR", "1")
    monkeypatch.delenv("RAY_TRAIN_METRICS_ENABLED", raising=False)
    with driver_environment():
        assert os.environ["RAY_CHDIR_TO_TRIAL_DIR"] == "0"
    assert os.environ["RAY_CHDIR_TO_TRIAL_DIR"] == "1"
    assert "RAY_TRAIN_METRICS_ENABLED" not in os.environ


def test_errors_travel_with_their_class_problems_and_traceback() -> None:
    try:
        raise ConfigError(["one", "two"])
    except ConfigError as error:
        there = pickle.loads(pickle.dumps(_portable(error)))
    assert isinstance(there, ConfigError)
    assert there.problems == ("one", "two")
    assert "test_ray_train.py" in there.__notes__[0]
    assert isinstance(_portable(GateError("no")), GateError)


def test_an_error_that_cannot_be_pickled_travels_in_words() -> None:
    class Local(Exception):
        pass

    there = _portable(Local("lost"))
    assert type(there) is RuntimeError
    assert str(there) == "Local: lost"


def test_failures_are_explained_by_worker() -> None:
    class Failure(Exception):
        worker_failures = {1: RuntimeError("Traceback\n  ...\nValueError: boom"), 0: RuntimeError("peer closed")}

    text = _explain(Failure(), 3)
    assert "more than 3 times" in text
    assert text.index("worker 0: peer closed") < text.index("worker 1: ValueError: boom")
    assert "the same command resumes" in text
