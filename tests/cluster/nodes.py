"""Several Ray nodes on this machine, and what tests do to them.

A node is `ray start` in a process of its own, with its own raylet and token, and where the machine allows it with
its own network and /tmp as well. Every process that is started here is stopped here, by its own id.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from tests.infra.servers import free_port

PATIENCE_S = 240.0
NAME = "ELDER_TEST_NODE"  # in the environment of a node and of all its workers
STARTS, TOO_SLOW = 3, "timed out during startup"  # Ray gives a node 30 s to start, which is not settable
LEAN = ("--object-store-memory=80000000", "--disable-usage-stats")
# How long Ray takes to notice that a node is dead (18 s by default) or the head (60 s) is not what is tested. A node
# that is merely slow is given 10 s for each of five answers, as by default.
ALERT = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "500",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "15",
}


@dataclass
class Node:
    """One node: its name and its `ray start` process."""

    name: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """SIGKILL of everything that the node runs: what a power cut leaves."""
        family = _family(self.process.pid)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=30)
        self.process.wait(30)


@dataclass
class RayNodes:
    """A cluster of nodes on this machine; `Net` in `tests.cluster.networks` makes one with a network for each."""

    directory: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    port: int = 0

    @property
    def address(self) -> str:
        """Where drivers find the cluster."""
        return f"{self.ip('head')}:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What nodes and drivers share: the token, and nothing of another cluster."""
        kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
        return {**kept, **token, **ALERT, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(root()), "PYTHONWARNINGS": "ignore"}

    @property
    def temporary(self) -> str:
        """Ray's own directory on every node; short, because sockets lie in it."""
        return f"{self.directory}/ray"

    def ip(self, name: str) -> str:
        """Address of a node."""
        return "127.0.0.1"

    def inside(self, name: str) -> tuple[str, ...]:
        """The words before a command that is to be a node."""
        return ()

    def beside(self, name: str) -> tuple[str, ...]:
        """The words before a command that is to run on a node that is up."""
        return ()

    def start(self, name: str, cpus: int = 1) -> Node:
        """Start a node and wait until it has joined; the one named `head` makes the cluster."""
        common = [f"--num-cpus={cpus}", f"--node-ip-address={self.ip(name)}", "--block", *LEAN]
        common += ["--min-worker-port=0", "--max-worker-port=0", "--dashboard-agent-listen-port=0"]
        if name == "head":
            self.port = free_port()
            own = ["--head", f"--port={self.port}", "--include-dashboard=false", "--temp-dir=" + self.temporary]
        else:
            own = [f"--address={self.address}"]
        command = [*self.inside(name), sys.executable, "-m", "ray.scripts.scripts", "start", *own, *common]
        log = self.directory / f"{name}-{time.monotonic_ns()}.log"
        for _ in range(STARTS):
            process = self._try(name, command, log)
            if process.poll() is None or TOO_SLOW not in log.read_text():
                break
            self.kill(name)
        assert process.poll() is None, log.read_text()[-3000:]
        return self.nodes[name]

    def _try(self, name: str, command: Sequence[str], log: Path) -> subprocess.Popen[bytes]:
        with log.open("wb") as sink:
            environment = {**self.environment, NAME: name}
            process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, env=environment)
        self.nodes[name] = Node(name, process)
        wait_until(lambda: "Ray runtime started" in log.read_text() or process.poll() is not None, "a node")
        return process

    def kill(self, name: str) -> None:
        """Power cut."""
        self.nodes.pop(name).kill()

    def drive(self, *arguments: str, log: Path, on: str = "head") -> subprocess.Popen[bytes]:
        """Start `python -m ARGUMENTS` as a driver on a node; what it prints goes into the log."""
        command = [*self.beside(on), sys.executable, "-m", *arguments]
        with log.open("ab") as sink:
            return subprocess.Popen(command, cwd=root(), stdout=sink, stderr=subprocess.STDOUT, env=self.environment)

    def close(self) -> None:
        """Stop all nodes, the head last."""
        for name in sorted(self.nodes, key=lambda name: name == "head"):
            self.kill(name)


@contextlib.contextmanager
def ray_nodes(*names: str) -> Iterator[RayNodes]:
    """A head without CPUs, on which only drivers live, and nodes of one CPU each."""
    cluster = RayNodes(Path(tempfile.mkdtemp(prefix="elder-nodes-")))
    try:
        cluster.start("head", 0)
        for name in names:
            cluster.start(name)
        yield cluster
    finally:
        cluster.close()
        shutil.rmtree(cluster.directory, ignore_errors=True)


def root() -> Path:
    """Of the repository."""
    return Path(__file__).resolve().parents[2]


def leave_trace(where: str, rank: int) -> None:
    """Write down, in a worker, on which node a rank has been started."""
    Path(where).mkdir(parents=True, exist_ok=True)
    with (Path(where) / f"rank-{rank}").open("a") as file:
        file.write(os.environ.get(NAME, "?") + "\n")


def trace(where: Path, rank: int) -> list[str]:
    """The names of the nodes on which a rank has been started, in order."""
    path = where / f"rank-{rank}"
    return path.read_text().split() if path.exists() else []


def wait_until(ready: Callable[[], object], what: str, seconds: float = PATIENCE_S) -> None:
    """Look until it is so.

    Raises:
        AssertionError: It did not become so.
    """
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)


def end_of(process: subprocess.Popen[bytes], log: Path, seconds: float = PATIENCE_S) -> int:
    """Exit code of a driver; one that does not end is killed."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired as error:
        stop(process)
        raise AssertionError(f"the driver did not end within {seconds:g} s:\n{log.read_text()[-3000:]}") from error


def stop(process: subprocess.Popen[bytes], how: int = signal.SIGKILL) -> None:
    """Kill a driver."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(how)
    process.wait(30)


def _family(pid: int) -> Sequence[psutil.Process]:
    try:
        first = psutil.Process(pid)
    except psutil.NoSuchProcess:
        return []
    return [first, *first.children(recursive=True)]
