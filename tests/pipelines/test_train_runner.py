"""What the Ray runner decides without starting Ray."""

from __future__ import annotations

import os
import pickle

import pytest

from elder.errors import ConfigError, GateError
from pipelines.train_runner import _explain, _portable, driver_environment, threads_of, worker_environment
from tests.pipelines.fakes import make_config


def test_threads_are_shared_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert threads_of(make_config(cluster={"workers": 4}).cluster) == 2
    assert threads_of(make_config(cluster={"workers": 16}).cluster) == 1
    assert threads_of(make_config(cluster={"workers": 4, "threads_per_worker": 3}).cluster) == 3


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
    assert "test_train_runner.py" in there.__notes__[0]
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
    assert "the same command goes on" in text
