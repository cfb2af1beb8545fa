"""A real S3 server with real signatures for tests: OpenStack Swift, its data on disk, to be stopped and started."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from elder.infra.dev.swift_settings import SwiftSite, missing_support, prepare

ROOT = Path(__file__).resolve().parents[2]
PATIENCE_S = 60


class SwiftServer:
    """One Swift and its data. It comes back at the same address with the same keys and the same data."""

    def __init__(self, directory: Path) -> None:
        self.site: SwiftSite = prepare(directory)
        self.log = directory / "swift.log"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        """`http://127.0.0.1:PORT`, for `tracking.s3.endpoint_url`."""
        return self.site.endpoint

    @property
    def access(self) -> dict[str, str]:
        """The environment of processes that may use it."""
        return {**self.site.credentials, "AWS_EC2_METADATA_DISABLED": "true"}

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start it and wait until it answers; nothing happens when it runs."""
        if self._process and self._process.poll() is None:
            return
        command = [sys.executable, "-m", "elder.infra.dev.swift_server", str(self.site.directory)]
        with self.log.open("ab") as sink:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink, start_new_session=True)
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline and self._process.poll() is None:
            if answers(self.endpoint):
                return
            time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"{self.endpoint} did not come up:\n{self.log.read_text()[-2000:]}")

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it; `signal.SIGKILL` ends it in the middle of whatever it does."""
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(how)
        self._process.wait(PATIENCE_S)
        self._process = None

    def restart(self, away_s: float = 0.0, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, leave it away for a while, start it."""
        self.stop(how)
        time.sleep(away_s)
        self.start()

    def client(self, secret_key: str | None = None) -> Any:
        """A boto3 client of its own; with another secret if one is given."""
        import boto3

        keys = (self.site.access_key, secret_key or self.site.secret_key)
        session = boto3.session.Session(*keys, region_name=self.access["AWS_DEFAULT_REGION"])
        return session.client("s3", endpoint_url=self.endpoint)

    def make_bucket(self) -> str:
        """The name of a new empty bucket."""
        name = f"test-{uuid.uuid4().hex[:12]}"
        self.client().create_bucket(Bucket=name)
        return name


def answers(url: str) -> bool:
    """Whether a server is there, whatever it says."""
    try:
        urllib.request.urlopen(url, timeout=2).close()
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@contextmanager
def swift(directory: Path) -> Iterator[SwiftServer]:
    """A running Swift below a directory; the test is skipped where it cannot run, with the reason."""
    problem = missing_support(directory)
    if problem:
        pytest.skip(problem)
    server = SwiftServer(directory)
    try:
        server.start()
        yield server
    finally:
        server.stop()
