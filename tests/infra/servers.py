"""Servers for tests, as child processes on free loopback ports, and a proxy that makes faults.

Every process that is started here is stopped here, by its own id.
"""

from __future__ import annotations

import http.client
import os
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

ACCESS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_EC2_METADATA_DISABLED": "true"}
LEAN = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


def free_port() -> int:
    """A loopback port that nobody listens on at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def child(arguments: list[str], url: str, log: Path, env: Mapping[str, str], patience_s: float = 60) -> Iterator[str]:
    """Run a server until the block ends; the block begins when `url` answers."""
    with log.open("wb") as sink:
        process = subprocess.Popen(
            arguments, stdout=sink, stderr=subprocess.STDOUT, env={**os.environ, **env}, start_new_session=True
        )
        try:
            _wait(process, url, log, patience_s)
            yield url
        finally:
            os.killpg(process.pid, 15)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait(10)


@contextmanager
def moto(directory: Path) -> Iterator[str]:
    """An S3 server in memory that lists 40 keys a page; yields its endpoint."""
    port = free_port()
    arguments = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with child(
        arguments, f"http://127.0.0.1:{port}", directory / "moto.log", {**ACCESS, "MOTO_S3_DEFAULT_MAX_KEYS": "40"}
    ) as url:
        yield url


@contextmanager
def mlflow_server(database: Path, artifacts: str, env: Mapping[str, str], direct: bool = False) -> Iterator[str]:
    """A real MLflow server on a sqlite file; yields its address.

    It passes artifacts on to `artifacts`; in direct mode it only says that they belong there.
    """
    port = free_port()
    arguments = [sys.executable, "-m", "mlflow", "server", "--backend-store-uri", f"sqlite:///{database}"]
    if direct:
        arguments += ["--default-artifact-root", artifacts, "--no-serve-artifacts"]
    else:
        arguments += ["--artifacts-destination", artifacts]
    arguments += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    with child(
        arguments, f"http://127.0.0.1:{port}/health", database.with_suffix(".log"), {**LEAN, **env}, patience_s=120
    ):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def faulty_proxy(target: str) -> Iterator[FaultyProxy]:
    """A proxy in front of `target`, in this process."""
    server = FaultyProxy(target)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class FaultyProxy(ThreadingHTTPServer):
    """Passes requests on, except that the next ones meet the faults of the list, one each.

    Faults: a status such as `503` or `409` is answered in the server's place; `lost` lets the server do its
    work but drops the connection before the answer; `cut` sends half of the answer's body; `cut large` does so to the
    next answers with more than `cut_larger_than` bytes, and lets smaller ones pass; `reset` resets the connection in
    the middle of the request's body. `rule(METHOD, PATH)` names the fault of requests when the list is empty; every
    request waits `delay_s`.
    """

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target)
        self.faults: list[str] = []
        self.seen: list[str] = []  # method and fate of every request
        self.asked: list[str] = []  # method, path and Range of every request
        self.cut_larger_than = 0
        self.rule: Callable[[str, str], str] = lambda method, path: ""
        self.delay_s = 0.0

    @property
    def url(self) -> str:
        """Address of the proxy."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Dropped connections are the purpose here, not something to print."""


class _Handler(BaseHTTPRequestHandler):
    server: FaultyProxy
    protocol_version = "HTTP/1.1"

    def _handle(self) -> None:
        fault = self.server.faults.pop(0) if self.server.faults else self.server.rule(self.command, self.path)
        time.sleep(self.server.delay_s)
        if fault == "reset":
            return self._reset()
        body = self._body()
        self.server.seen.append(f"{self.command} {fault or 'passed'}")
        self.server.asked.append(f"{self.command} {self.path} {self.headers.get('Range', '')}".rstrip())
        if fault.isdigit():
            return self._answer(int(fault), {}, _error_page(fault))
        status, headers, content = self._forward(body)
        if fault == "lost":
            return self._drop()
        cut = fault == "cut" or (fault == "cut large" and len(content) > self.server.cut_larger_than)
        if fault == "cut large" and not cut:
            self.server.faults.insert(0, fault)  # it is meant for another answer
        self._answer(status, headers, content, cut)

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            pieces = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                pieces.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(pieces)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _forward(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        hop = ("transfer-encoding", "content-length", "connection", "expect")
        headers = {name: value for name, value in self.headers.items() if name.lower() not in hop}
        upstream = http.client.HTTPConnection(self.server.target.netloc, timeout=30)
        try:
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in hop}
            length = answer.headers.get("Content-Length")
            if self.command == "HEAD" and length:
                kept["Content-Length"] = length
            return answer.status, kept, answer.read()
        finally:
            upstream.close()

    def _answer(self, status: int, headers: Mapping[str, str], content: bytes, cut: bool = False) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if "Content-Length" not in headers and status != 204:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if cut else content)
        self.wfile.flush()
        if cut:
            self._drop()

    def _reset(self) -> None:
        self.server.seen.append(f"{self.command} reset")
        self.rfile.read1(int(self.headers.get("Content-Length", 0)) // 2)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def _drop(self) -> None:
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    do_GET = do_PUT = do_POST = do_PATCH = do_HEAD = do_DELETE = _handle

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def _error_page(status: str) -> bytes:
    codes = {"503": "SlowDown", "500": "InternalError", "409": "ConditionalRequestConflict", "403": "AccessDenied"}
    code = codes.get(status, status)
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>injected</Message></Error>".encode()


def _wait(process: subprocess.Popen[bytes], url: str, log: Path, patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except urllib.error.HTTPError:
            return  # it answers
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{url} did not come up:\n{log.read_text(errors='replace')[-2000:]}")
