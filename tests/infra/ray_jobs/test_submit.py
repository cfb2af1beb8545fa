"""Tokens, the job server's HTTP interface and the package that travels, without a cluster."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, nullcontext
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import cast

import pytest

from elder.errors import ConfigError, UnreachableError
from elder.infra.ray_jobs import submit
from elder.infra.ray_jobs.packaging import (
    START,
    check_size,
    folder_files,
    stage_code,
    stage_folder,
    stage_start,
)
from elder.infra.ray_jobs.server import JobRecord, JobServer, check_address, connect, default_address, is_loopback
from elder.infra.ray_jobs.token import find_token
from tests.infra.servers import free_port


class Odd(ThreadingHTTPServer):
    """A server that does what no Ray cluster in the tests does; remembers what it was sent."""

    def __init__(self, answers: list[tuple[int, dict[str, str], bytes]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answers, self.seen = answers, list[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    server: Odd

    def do_GET(self) -> None:
        self.server.seen.append(self.headers.get("Authorization", ""))
        status, headers, body = self.server.answers[min(len(self.server.seen), len(self.server.answers)) - 1]
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@contextmanager
def odd(*answers: tuple[int, dict[str, str], bytes]) -> Iterator[Odd]:
    server = Odd(list(answers))
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


RAY = (200, {}, json.dumps({"ray_version": "2.60.0"}).encode())


def test_a_token_goes_only_to_a_server_that_asks() -> None:
    with odd(RAY) as server:
        assert connect(server.url, {"RAY_AUTH_TOKEN": "abc", "RAY_AUTH_MODE": "token"}).token is None
        assert server.seen == [""]
    with odd((401, {}, b"no"), RAY) as server:
        assert connect(server.url, {"RAY_AUTH_TOKEN": " abc\n"}).logs("x") == ""
        assert server.seen == ["", "Bearer abc", "Bearer abc"]


def test_a_token_does_not_follow_a_redirect() -> None:
    with odd(RAY) as thief, odd((401, {}, b""), (302, {"Location": f"{thief.url}/api/version"}, b"")) as server:
        with pytest.raises(UnreachableError, match="answers 302"):
            connect(server.url, {"RAY_AUTH_TOKEN": "abc"})
        assert thief.seen == []


def test_a_wrong_token_is_not_repeated_in_the_message() -> None:
    with odd((401, {}, b""), (403, {}, b"Forbidden")) as server, pytest.raises(UnreachableError) as caught:
        connect(server.url, {"RAY_AUTH_TOKEN": "abc-secret"})
    assert "refuses the token from RAY_AUTH_TOKEN" in str(caught.value)
    assert "abc-secret" not in str(caught.value)
    assert "ray get-auth-token" in str(caught.value)


@pytest.mark.parametrize(
    "answer", [(200, {}, b"<html>MLflow</html>"), (404, {}, b""), (200, {}, b"[]"), (200, {}, b"{}")]
)
def test_a_server_that_is_not_ray_is_named_so(answer: tuple[int, dict[str, str], bytes]) -> None:
    with odd(answer) as server, pytest.raises(UnreachableError, match="not like a Ray cluster"):
        connect(server.url, {})


def test_nobody_there() -> None:
    with pytest.raises(UnreachableError, match=r"no Ray job server answers at http://127.0.0.1:\d+.*--address"):
        connect(f"http://127.0.0.1:{free_port()}", {})


class Silent:
    """A cluster that does not answer for a while after a long connection; what follows a log needs of it."""

    def __init__(self, refusals: int) -> None:
        self.refusals = refusals

    def job(self, job_id: str) -> JobRecord:
        self.refusals -= 1
        if self.refusals >= 0:
            raise UnreachableError("nobody answers")
        return JobRecord(job_id, "SUCCEEDED")

    def logs(self, job_id: str) -> str:
        return "first\nlast\n"

    async def tail_job_logs(self, job_id: str) -> AsyncIterator[str]:
        yield "first\n"
        await asyncio.sleep(2 * submit.PATIENCE_S)
        raise ConnectionResetError


@pytest.mark.parametrize("refusals", [3, 10**6])
def test_however_long_a_log_was_followed_a_silent_cluster_is_waited_for(
    refusals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(submit, "PATIENCE_S", 0.3)
    monkeypatch.setattr(submit, "PAUSE_S", 0.01)
    monkeypatch.setattr(submit, "tailing_client", nullcontext)
    written: list[str] = []
    server = cast(JobServer, Silent(refusals))
    if refusals > 3:
        with pytest.raises(UnreachableError, match="nobody answers"):
            submit.follow(server, "a", written.append)
        assert written == ["first\n"]
    else:
        assert submit.follow(server, "a", written.append).over
        assert written == ["first\n", "last\n"]


def test_where_a_token_is_looked_for(tmp_path: Path) -> None:
    assert find_token({}, tmp_path) is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray" / "auth_token").write_text("home\n")
    (tmp_path / "file").write_text("named\n")
    named = {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "file")}
    found = [find_token(environ, tmp_path) for environ in ({}, named, {**named, "RAY_AUTH_TOKEN": "direct"})]
    assert [token.value for token in found if token] == ["home", "named", "direct"]
    assert "home" not in repr(found[0])
    with pytest.raises(UnreachableError, match="RAY_AUTH_TOKEN_PATH names"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "absent")}, tmp_path)


def test_addresses() -> None:
    assert check_address("http://head:8265/") == "http://head:8265"
    for bad in ("head:8265", "ray://head:10001", "auto", "http://"):
        with pytest.raises(ConfigError, match="--address: expected http://HOST:8265"):
            check_address(bad)
    with pytest.raises(ConfigError) as caught:
        check_address("http://bob:hunter2@head:8265")
    assert "hunter2" not in str(caught.value)
    assert default_address({"RAY_ADDRESS": "10.0.0.1:6379"}) == "http://127.0.0.1:8265"
    assert default_address({"RAY_ADDRESS": "http://a:1", "RAY_API_SERVER_ADDRESS": "http://b:2"}) == "http://b:2"
    assert [is_loopback(a) for a in ("http://localhost:1", "http://127.0.0.9:1", "http://[::1]:1", "http://h:1")] == [
        True, True, True, False,
    ]  # fmt: skip


def test_a_job_is_kept_without_its_environment() -> None:
    answer = {"submission_id": "a", "status": "FAILED", "start_time": 2000, "driver_exit_code": 3}
    job = JobRecord.from_answer({**answer, "runtime_env": {"env_vars": {"X": "secret"}}})
    assert (job.id, job.over, job.started, job.exit_code) == ("a", True, 2.0, 3)
    assert "secret" not in repr(job)


def tree(folder: Path, *names: str, size: int = 1) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * size)


def test_what_never_travels(tmp_path: Path) -> None:
    tree(
        tmp_path,
        "a.txt",
        "sub/b.txt",
        ".git/config",
        ".env",
        ".env.local",
        "sub/.env",
        "key.pem",
        "id_rsa",
        "id_rsa.pub",
    )
    tree(
        tmp_path,
        "venv/x",
        ".venv/y",
        "sub/__pycache__/c.pyc",
        "elder-runs/store/x",
        "logs/1.log",
        "logs/2.txt",
        "keep.log",
    )
    (tmp_path / "link").symlink_to(tmp_path / "sub", target_is_directory=True)
    found = {path.as_posix() for path in folder_files(tmp_path, ["logs/*.txt"])}
    assert found == {"a.txt", "sub/b.txt", "logs/1.log", "keep.log"}


def test_ignore_files_are_read_as_git_does(tmp_path: Path) -> None:
    tree(tmp_path, "a.txt", "b.log", "keep.log", "big/data.bin", "sub/c.tmp", "c.tmp", "sub/d.txt")
    (tmp_path / ".gitignore").write_text("*.log\n!keep.log\n/big/\n")
    (tmp_path / "sub" / ".rayignore").write_text("*.tmp\n")
    found = {path.as_posix() for path in folder_files(tmp_path)}
    assert found == {".gitignore", "a.txt", "keep.log", "c.tmp", "sub/.rayignore", "sub/d.txt"}


def test_too_large_names_the_largest(tmp_path: Path) -> None:
    tree(tmp_path / "mine", "small", size=10)
    for number in range(6):
        tree(tmp_path / "mine", f"w/{number}.bin", size=1000 * (number + 1))
    with pytest.raises(ConfigError) as caught:
        stage_folder(tmp_path / "mine", tmp_path / "target", (), 5000)
    text = str(caught.value)
    assert "0.0 MB" in text
    assert [f"w/{number}.bin" in text for number in range(6)] == [False, True, True, True, True, True]
    assert "--exclude" in text
    assert not (tmp_path / "target").exists(), "nothing is copied of what is too large"
    assert check_size({Path("a"): 5}, 5, "x") == 5


def test_a_list_of_what_to_ignore_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Without it files would travel that were to stay."""
    (tmp_path / ".rayignore").write_text("!")
    with pytest.raises(ConfigError, match=r"\.rayignore: cannot be read"):
        list(folder_files(tmp_path))
    (tmp_path / ".rayignore").unlink()
    (tmp_path / ".rayignore").symlink_to("/dev/null")
    with pytest.raises(ConfigError, match="it is a device"):
        list(folder_files(tmp_path))


def test_our_packages_travel_whole_and_alone(tmp_path: Path) -> None:
    stage_code(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"elder"}
    for path in ("configs/demo.yaml", "pipelines/run/driver.py", "jobs/main.py", "infra/stores/open.py"):
        assert (tmp_path / "elder" / path).is_file()
    assert not any(path.is_symlink() for path in tmp_path.rglob("*")), "a link would lead nowhere on another machine"
    assert not list(tmp_path.rglob("__pycache__"))


def test_the_start_script_finds_a_python_with_ray(tmp_path: Path) -> None:
    import subprocess
    import sys

    for name, answer in (("python", "exit 1"), ("python3", "exit 1")):
        fake = tmp_path / "bin" / name
        fake.parent.mkdir(exist_ok=True)
        fake.write_text(f"#!/bin/sh\n{answer}\n")
        fake.chmod(0o755)
    (tmp_path / "elder" / "jobs").mkdir(parents=True)
    for package in ("elder", "elder/jobs"):
        (tmp_path / package / "__init__.py").write_text("")
    (tmp_path / "elder" / "jobs" / "main.py").write_text("import sys; print(sys.argv[1:])")
    paths = {"PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin"}

    def run() -> subprocess.CompletedProcess[str]:
        script = ["sh", "run/start.sh", "edit", "a b"]
        return subprocess.run(script, cwd=tmp_path, env=paths, capture_output=True, text=True, check=False)

    stage_start(tmp_path, sys.executable)
    assert run().stdout == "['edit', 'a b']\n"
    stage_start(tmp_path, "")
    assert (run().returncode, "no python with ray" in run().stderr) == (3, True)
    assert START.startswith("#!/bin/sh")
