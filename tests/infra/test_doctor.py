"""The doctor: healthy parts are ok and leave nothing behind; each sick part has a remedy."""

from __future__ import annotations

import importlib.metadata
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from infra import doctor, toolchain
from infra.doctor import Check, check
from infra.local_store import LocalStore
from tests.infra.servers import free_port


def line(checks: list[Check], name: str) -> Check:
    return next(item for item in checks if item.name == name)


def test_a_healthy_machine(tmp_path: Path) -> None:
    checks = check(store=tmp_path / "a" / "store", mlflow=str(tmp_path / "b" / "mlflow.db"), cache=tmp_path / "cache")
    assert [item.name for item in checks if not item.ok] == []
    assert line(checks, "ray").detail.startswith(importlib.metadata.version("ray"))
    assert "conditional create" in line(checks, "object store").detail
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
    monkeypatch.setattr(doctor, "find_compiler", lambda: None)
    monkeypatch.setattr(doctor, "find_ninja", lambda: None)
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
def test_ray_addresses(form: str, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = form.format(port=listener.getsockname()[1])
        assert line(check(address=address, cache=tmp_path), "ray cluster").ok
    assert not line(check(address=address, cache=tmp_path), "ray cluster").ok


def test_the_toolchain(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A directory with programs of our own stands for PATH."""
    interpreter = tmp_path / "venv" / "python"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    assert (toolchain.find_compiler(), toolchain.find_ninja()) == (None, None)
    for name in ("c++ compiler", "ninja"):  # told, but no failure
        told = line(check(cache=tmp_path), name)
        assert told.ok
        assert "no run needs it" in told.detail

    _program(tmp_path / "mycc")
    monkeypatch.setenv("CXX", "mycc -O2")
    assert toolchain.find_compiler() == str(tmp_path / "mycc")
    _program(tmp_path / "venv" / "ninja")
    assert toolchain.find_ninja() == str(tmp_path / "venv" / "ninja")
    assert line(check(cache=tmp_path), "ninja").detail == str(tmp_path / "venv" / "ninja")


def test_importing_the_doctor_is_light() -> None:
    """`elder doctor --help` must not pay for torch, ray or mlflow."""
    heavy = ("torch", "ray", "mlflow", "boto3")
    code = f"import infra.doctor, infra.stores, sys; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, check=True)
    assert ended.stdout.strip() == b"[]"


def _program(path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
