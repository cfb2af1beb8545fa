"""Servers that go away and come back: an MLflow server on a fixed port that can be stopped, held and started again."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

from tests.cluster.nodes import wait_until
from tests.infra.servers import LEAN, free_port


class MlflowServer:
    """A real server on a sqlite file; what it knows outlives it."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.port = directory, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        arguments = [sys.executable, "-m", "mlflow", "server"]
        arguments += ["--backend-store-uri", f"sqlite:///{self.directory}/mlflow.db", "--workers", "1"]
        arguments += ["--artifacts-destination", str(self.directory / "artifacts")]
        arguments += ["--host", "127.0.0.1", "--port", str(self.port)]
        with (self.directory / "mlflow.log").open("ab") as sink:
            self.process = subprocess.Popen(arguments, stdout=sink, stderr=sink, env={**os.environ, **LEAN})
        wait_until(self.answers, "the MLflow server")

    def answers(self) -> bool:
        """Whether it answers now."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                return True
        except (OSError, urllib.error.URLError):
            return False

    def kill(self) -> None:
        """kill -9 of all its processes."""
        for process in self._family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.process is not None:
            self.process.wait(30)
        self.process = None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """SIGSTOP: it takes connections and does not answer; SIGCONT behind the block."""
        family = self._family()
        for process in family:
            process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for process in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGCONT)

    def _family(self) -> list[psutil.Process]:
        if self.process is None:
            return []
        first = psutil.Process(self.process.pid)
        return [*first.children(recursive=True), first]


@contextlib.contextmanager
def mlflow_that_fails(directory: Path, empty_database: Path) -> Iterator[MlflowServer]:
    """A server that is up when the block begins; its database begins as a copy."""
    directory.mkdir(parents=True, exist_ok=True)
    shutil.copy(empty_database, directory / "mlflow.db")
    server = MlflowServer(directory)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def gone_for(seconds: float) -> None:
    """Let an outage last."""
    time.sleep(seconds)
