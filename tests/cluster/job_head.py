"""A Ray head with dashboard and job server, in processes of its own and with a token of its own.

`with job_head() as head:` for tests; `python -m tests.cluster.job_head PORT CPUS DIR` is the process itself.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.nodes import STARTS, TOO_SLOW
from tests.infra.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "fedcba9876543210" * 4
UP_S = 120.0


class TooSlow(RuntimeError):
    """Ray gives a node 30 s to start, and a busy machine may need more; a second try finds the files in memory."""


@dataclass(frozen=True)
class JobHead:
    """A running head."""

    address: str
    token: str
    directory: Path

    @property
    def gcs(self) -> str:
        """Where drivers that are not submitted find the cluster."""
        return (self.directory / "gcs").read_text()

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs; nothing of another cluster."""
        return {"RAY_AUTH_TOKEN": self.token, "RAY_AUTH_TOKEN_PATH": "", "RAY_AUTH_MODE": "", "RAY_ADDRESS": ""}


@contextmanager
def job_head(cpus: int = 2) -> Iterator[JobHead]:
    """Start a head with token authentication; it and everything that runs on it end with the block."""
    for attempt in range(STARTS):
        try:
            with _started(cpus) as running:
                yield running
            return
        except TooSlow:
            if attempt + 1 == STARTS:
                raise


@contextmanager
def _started(cpus: int) -> Iterator[JobHead]:
    directory = Path(tempfile.mkdtemp(prefix="elder-head-", dir="/tmp"))  # sockets need a short path
    port = free_port()
    bin_dir = str(Path(sys.executable).parent)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "ELDER_"))}
    environment |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
        "PATH": f"{bin_dir}{os.pathsep}{environment.get('PATH', '')}",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "tests.cluster.job_head", str(port), str(cpus), str(directory / "ray")]
    log = directory / "head.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait(process, f"http://127.0.0.1:{port}/api/version", log)
        yield JobHead(f"http://127.0.0.1:{port}", TOKEN, directory)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(10)
        shutil.rmtree(directory, ignore_errors=True)


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    end = time.monotonic() + UP_S
    while time.monotonic() < end and process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=2):
                raise RuntimeError("the head asks for no token")
        except urllib.error.HTTPError:  # it answers, and wants its token
            if (log.parent / "gcs").exists():
                return
        except OSError:
            pass
        time.sleep(0.2)
    said = log.read_text(errors="replace")
    kind = TooSlow if TOO_SLOW in said else RuntimeError
    raise kind(f"the Ray head did not come up:\n{said[-2000:]}")


def main(port: str, cpus: str, directory: str) -> None:
    """Be the head until SIGTERM, or until the tests have gone without saying so."""
    import ray
    from ray._private.utils import write_ray_address

    parent = os.getppid()
    _choose_agent_port(free_port())
    ray.init(
        address="local",
        num_cpus=int(cpus),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        dashboard_port=int(port),
        log_to_driver=False,
        object_store_memory=100 * 2**20,
        _temp_dir=directory,
    )
    address = ray.get_runtime_context().gcs_address
    # As `ray start` does: Ray tells a job this address. Without it, it takes the first cluster it finds on the machine.
    write_ray_address(address, directory)
    (Path(directory).parent / "gcs").write_text(address)
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: ended.set())
    while not ended.wait(1) and os.getppid() == parent:
        pass
    ray.shutdown()


def _choose_agent_port(port: int) -> None:
    """Another cluster on this machine may have the usual port, and without its agent a head takes no job.

    `ray start` has an option for it, `ray.init` none.
    """
    from ray._private.parameter import RayParams

    original = RayParams.__init__

    def chosen(self: RayParams, *args: object, **kwargs: object) -> None:
        original(self, *args, **{"dashboard_agent_listen_port": port, **kwargs})

    RayParams.__init__ = chosen


if __name__ == "__main__":
    main(*sys.argv[1:])
