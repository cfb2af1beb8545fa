"""`elder up` and `elder down` with the real servers: found again, mended, ended, and nobody else harmed."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import elder.infra.dev.services
from elder.errors import ConfigError, UnreachableError
from elder.infra.dev.service_files import Services, read_services
from elder.infra.dev.services import bring_up, take_down
from elder.infra.stores.s3 import S3Store
from elder.infra.stores.s3_settings import S3Settings
from tests.infra.swift import ROOT, answers

FOREIGN = {
    "AWS_PROFILE": "nobody",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
}


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A directory for services, which are ended whatever happens."""
    directory = tmp_path / "services"
    yield directory
    take_down(directory)


def environment() -> dict[str, str]:
    """Of a user whose shell is set up for other servers."""
    return {**os.environ, **FOREIGN, "PYTHONPATH": str(ROOT)}


def command_line(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "elder.jobs.main", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=environment(), capture_output=True, text=True, timeout=200, check=False)


@pytest.mark.nodes
@pytest.mark.timeout(400)
def test_the_life_of_the_services(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = command_line("up", "--dir", home, "--json", tmp_path / "up.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = json.loads((tmp_path / "up.json").read_text())
    assert (first["s3"]["kind"], first["keeps_objects"], first["s3"]["started"]) == ("swift", True, True)
    _no_secret_is_shown(home, done.stdout + done.stderr + (tmp_path / "up.json").read_text())

    _a_client_stores_and_logs(home, first, monkeypatch)

    found = bring_up(home, environment())
    assert found.fresh == ()
    assert [found.s3.process.pid, found.mlflow.process.pid] == [first["s3"]["pid"], first["mlflow"]["pid"]]

    os.kill(found.mlflow.process.pid, signal.SIGKILL)  # its children live on
    mended = bring_up(home, environment())
    assert mended.fresh == ("mlflow",)
    assert mended.mlflow.url == found.mlflow.url

    os.kill(mended.s3.process.pid, signal.SIGSTOP)  # there, but it answers nobody
    mended = bring_up(home, environment())
    assert mended.fresh == ("s3",)
    assert mended.overrides == first["overrides"]
    assert _store(mended).get("kept") == b"1"

    done = command_line("down", "--dir", home, cwd=tmp_path)
    assert (done.returncode, done.stdout.count("ended")) == (0, 2)
    assert not answers(mended.s3.url)
    assert not answers(mended.mlflow.url)
    assert "nothing of" in command_line("down", "--dir", home, cwd=tmp_path).stdout
    (home / "mine.txt").write_text("not of the services")
    assert command_line("down", "--dir", home, "--purge", cwd=tmp_path).returncode == 0
    assert [path.name for path in home.iterdir()] == ["mine.txt"]


def _a_client_stores_and_logs(home: Path, result: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """What `source env.sh` gives is enough for the store; MLflow's clients need no key, only its server has one."""
    import mlflow

    shown = subprocess.run(
        ["bash", "-c", f". {home}/env.sh; env"], capture_output=True, text=True, check=True, env=environment()
    ).stdout
    exported = dict(line.split("=", 1) for line in shown.splitlines() if line.startswith(("AWS_", "MLFLOW_")))
    assert "AWS_PROFILE" not in exported
    assert exported["MLFLOW_TRACKING_URI"] == result["mlflow"]["url"]
    client = mlflow.MlflowClient(result["mlflow"]["url"])
    run = client.create_run(client.create_experiment("e"))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    client.log_text(run.info.run_id, "content", "notes.txt")
    for name, value in exported.items():
        monkeypatch.setenv(name, value)
    settings = S3Settings(endpoint_url=result["s3"]["url"], addressing="path")
    (key,) = (key for key in S3Store("s3://elder", settings).list("mlflow/") if key.endswith("notes.txt"))
    assert S3Store("s3://elder", settings).get(key) == b"content"
    S3Store("s3://elder/store", settings).put("kept", b"1")


def _no_secret_is_shown(home: Path, text: str) -> None:
    secret = json.loads((home / "swift" / "site.json").read_text())["secret_key"]
    holders = [path for path in home.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
    assert sorted(path.name for path in holders) == ["env.sh", "proxy.conf", "site.json"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in holders} == {0o600}
    assert secret not in text


def _store(services: Services) -> S3Store:
    return S3Store("s3://elder/store", S3Settings(endpoint_url=services.s3.url, addressing="path"))


@pytest.mark.cluster
def test_without_swift_there_is_moto_which_keeps_nothing(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(elder.infra.dev.services, "missing_support", lambda directory: "not installed")
    said: list[str] = []
    services = bring_up(home, environment(), say=said.append)
    assert "note    not installed; moto takes its place" in said
    assert (services.s3.kind, services.keeps_objects) == ("moto", False)
    monkeypatch.setattr(elder.infra.dev.services, "missing_support", lambda directory: None)
    assert bring_up(home, environment()).s3.kind == "moto", "what runs stays"


def test_what_was_started_ends_again_when_the_other_server_fails(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(directory: Path, site: object, port: int) -> elder.infra.dev.services._Plan:
        command = (sys.executable, "-c", "raise SystemExit('it is broken')")
        return elder.infra.dev.services._Plan("mlflow", "mlflow", port, command, "/health", {})

    monkeypatch.setattr(elder.infra.dev.services, "_mlflow_plan", broken)
    with pytest.raises(UnreachableError, match=r"the mlflow server did not come up .*mlflow\.log ends: it is broken"):
        bring_up(home, environment())
    s3 = read_services(home)["s3"]
    assert not answers(s3.url)
    assert take_down(home) == []


@pytest.mark.parametrize("name", ["s3", "mlflow"])
def test_a_taken_port_is_named_and_nothing_is_started(home: Path, name: str) -> None:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        holder.listen()
        port = holder.getsockname()[1]
        with pytest.raises(UnreachableError, match=rf"port {port} .* --{name}-port PORT"):
            bring_up(home, environment(), **{f"{name}_port": port})
    assert read_services(home) == {}


def test_a_number_that_belongs_to_another_process_by_now_is_not_ended(home: Path, tmp_path: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        home.mkdir()
        process = {"pid": other.pid, "began": 1.0, "command": ["python", "-m", "mlflow"], "mark": "m"}
        entry = {"name": "mlflow", "kind": "mlflow", "url": "http://127.0.0.1:1", "process": process}
        (home / "services.json").write_text(json.dumps({"services": [entry]}))
        assert take_down(home, purge=True) == []
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_second_up_at_the_same_time_is_kept_out(home: Path) -> None:
    home.mkdir()
    with (home / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UnreachableError, match="another `elder up`"):
            bring_up(home, environment())


def test_purge_needs_a_directory_of_services(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    with pytest.raises(ConfigError, match="nothing was removed"):
        take_down(tmp_path, purge=True)
    assert (tmp_path / "logs").exists()
    assert command_line("down", "--dir", tmp_path, "--purge", cwd=tmp_path).returncode == 2


def test_a_damaged_record_is_named(home: Path) -> None:
    home.mkdir()
    (home / "services.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"services\.json is damaged"):
        bring_up(home, environment())
    (home / "services.json").unlink()
