"""The doctor: healthy parts are ok and leave nothing behind; each sick part has a remedy."""

from __future__ import annotations

import importlib.metadata
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from elder.errors import UnreachableError
from elder.infra.doctor import checks as doctor
from elder.infra.doctor import cluster as doctor_ray
from elder.infra.doctor.check import Check, Part, try_all
from elder.infra.doctor.checks import check
from elder.infra.doctor.nodes import ask_time
from elder.infra.doctor.places import RACERS, RACES, race, servers, try_clock
from elder.infra.stores.local import LocalStore
from tests.infra.servers import free_port


def line(checks: list[Check], name: str) -> Check:
    return next(item for item in checks if item.name == name)


def test_a_healthy_machine(tmp_path: Path) -> None:
    checks = check(store=tmp_path / "a" / "store", mlflow=str(tmp_path / "b" / "mlflow.db"), cache=tmp_path / "cache")
    assert [item.name for item in checks if not item.ok] == []
    assert line(checks, "ray").detail.startswith(importlib.metadata.version("ray"))
    assert "conditional create" in line(checks, "object store").detail
    assert "one of 6 writers" in line(checks, "store race").detail
    assert "will be made by the first run" in line(checks, "mlflow round trip").detail
    assert list(tmp_path.iterdir()) == []


def test_places_that_exist_are_left_as_they_were(database: Path, tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.put("k", b"v")
    checks = check(store=store.uri, mlflow=str(database), cache=tmp_path)
    assert line(checks, "mlflow round trip").ok
    assert "round trip of 1 MB" in line(checks, "mlflow round trip").detail
    assert line(checks, "object store").ok
    assert [path.name for path in store.root.iterdir()] == ["k"]


def test_s3(s3_endpoint: str, bucket: str, tmp_path: Path) -> None:
    settings = {"endpoint_url": s3_endpoint}
    assert line(check(store=f"s3://{bucket}/x", s3=settings, cache=tmp_path), "object store").ok
    failed = line(check(store="s3://absent-bucket", s3=settings, cache=tmp_path), "object store")
    assert not failed.ok
    assert "does not exist" in failed.detail
    assert failed.remedy


def test_a_store_that_overwrites_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "create", lambda self, key, data: bool(self.put(key, data)))
    failed = line(check(store=tmp_path, cache=tmp_path), "object store")
    assert not failed.ok
    assert "conditional writes" in failed.detail


def test_everything_that_can_be_wrong_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    blocked = tmp_path / "file" / "below"

    def absent(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", absent)
    monkeypatch.setattr(doctor, "PYTHON", (9, 9))
    checks = check(
        store=blocked,
        mlflow=f"http://127.0.0.1:{free_port()}",
        address=f"http://127.0.0.1:{free_port()}",
        cache=blocked,
    )
    assert [item.name for item in checks if item.ok] == ["device", "c++ compiler", "ninja"]
    assert all(item.detail and item.remedy for item in checks if not item.ok)
    assert line(checks, "deepspeed").remedy == "pip install 'elder[ray]'"


def test_another_version_is_told_but_no_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.6")
    assert line(check(cache=tmp_path), "ray") == Check("ray", True, "2.6 (tested with 2.60)")


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "WANTED_GB", 10**9)
    assert "GB free" in line(check(cache=tmp_path), "cache folder").detail
    assert not line(check(cache=tmp_path), "cache folder").ok


@pytest.mark.parametrize("address", ["auto", "local"])
def test_a_local_cluster_needs_nothing(address: str, tmp_path: Path) -> None:
    assert line(check(address=address, cache=tmp_path), "ray cluster").ok


@pytest.mark.parametrize("form", ["ray://127.0.0.1:{port}", "127.0.0.1:{port}"])
def test_what_answers_but_is_no_cluster(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that tries to join is ended in time."""
    monkeypatch.setattr(doctor_ray, "JOIN_S", 3.0)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = form.format(port=listener.getsockname()[1])
        told = line(check(address=address, cache=tmp_path, node_s=0), "ray cluster")
        assert "answers, but cannot be joined" in told.detail
        assert "ModuleNotFound" not in told.detail
        assert told.remedy
    gone = line(check(address=address, cache=tmp_path), "ray cluster")
    assert "nobody answers at 127.0.0.1" in gone.detail


def test_a_part_that_hangs_does_not_hold_the_others_up() -> None:
    gate = threading.Event()
    parts = [
        Part("hangs", lambda: str(gate.wait()), "kick it", timeout_s=0.1),
        Part("works", lambda: "fine", "-"),
        Part("breaks", lambda: str(1 / 0), "mend it"),
    ]
    try:
        lines = try_all(parts)
    finally:
        gate.set()
    assert [(check.name, check.word) for check in lines] == [("hangs", "FAIL"), ("works", "ok"), ("breaks", "FAIL")]
    assert lines[0].detail == "no answer within 0.1 s"
    assert "ZeroDivisionError" in lines[2].detail


def test_a_store_that_lets_two_win_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as Swift's S3 gateway: one after the other it refuses, at the same moment it does not."""
    together = threading.Barrier(RACERS)
    create = LocalStore.create

    def careless(self: LocalStore, key: str, data: bytes) -> bool:
        if key.endswith("-once"):
            return create(self, key, data)
        free = not self.exists(key)
        together.wait(20)
        self.put(key, data)
        return free

    monkeypatch.setattr(LocalStore, "create", careless)
    lines = check(store=tmp_path / "store", cache=tmp_path)
    assert line(lines, "object store").word == "ok"
    told = line(lines, "store race")
    assert told.word == "warn"
    assert f"in {RACES} of {RACES} races" in told.detail
    assert "Never start two drivers for one run" in told.remedy
    assert not (tmp_path / "store").exists()


def test_a_race_that_nobody_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LocalStore, "create", lambda self, key, data: False)
    with pytest.raises(UnreachableError, match="let none of 2 writers"):
        race(LocalStore(tmp_path), 2, 1)


@pytest.mark.parametrize(("ahead", "word"), [(0, "ok"), (-29, "ok"), (31, "warn"), (-31, "warn"), (901, "FAIL")])
def test_clocks(ahead: float, word: str) -> None:
    answers = {"http://a": {"ahead_s": ahead}, "http://b": {"ahead_s": 0.0}, "http://c": {"ahead_s": None}}
    (told,) = try_clock(list(answers), answers.__getitem__)
    assert told.word == word
    assert "http://a" in told.detail or ahead == 0
    assert try_clock(["http://c"], answers.__getitem__) == []


def test_the_clock_of_a_real_server(s3_endpoint: str, s3_access: None, tmp_path: Path) -> None:
    asked = ask_time(s3_endpoint)
    assert asked["ok"]
    assert abs(asked["ahead_s"]) < 5
    assert not ask_time(f"http://127.0.0.1:{free_port()}")["ok"]
    lines = check(store="s3://nowhere", s3={"endpoint_url": s3_endpoint}, cache=tmp_path)
    assert line(lines, "clock").ok
    assert s3_endpoint in line(lines, "clock").detail


def test_which_servers_tell_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION"):
        monkeypatch.delenv(name, raising=False)
    assert servers("dir", None, "mlflow.db") == {}
    found = servers("s3://b/p", {"endpoint_url": "http://s3:1"}, "http://me:secret@mlflow:2")
    assert found == {"store": "http://s3:1", "mlflow": "http://mlflow:2/health"}
    assert servers("s3://b", {"region": "eu-west-1"}, None) == {"store": "https://s3.eu-west-1.amazonaws.com"}


def test_the_toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory with programs of our own stands for PATH."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))

    def found() -> list[str]:
        lines = check(cache=tmp_path)
        assert line(lines, "c++ compiler").ok
        assert line(lines, "ninja").ok
        return [line(lines, name).detail for name in ("c++ compiler", "ninja")]

    assert all("no run needs it" in text for text in found())
    for name in ("mycc", "g++"):
        _program(tmp_path / name)
    _program(tmp_path / "venv" / "ninja")
    assert found() == [str(tmp_path / "g++"), str(tmp_path / "venv" / "ninja")]
    monkeypatch.setenv("CXX", "mycc -O2")
    assert found()[0] == str(tmp_path / "mycc")


def test_importing_the_doctor_is_light() -> None:
    """`elder doctor --help` must not pay for torch, ray or mlflow."""
    heavy = ("torch", "ray", "mlflow", "boto3")
    code = "import elder.infra.doctor.checks, elder.infra.stores.open, sys; "
    code += f"print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[3], capture_output=True, check=True)
    assert ended.stdout.strip() == b"[]"


def _program(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
