"""Nodes that share less: each has its own network, address, host name and /tmp, as machines have.

Needs Linux, root and `ip`; `possible` says whether this machine lets us. What is made here is removed here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.nodes import RayNodes

NODES = ("head", "one", "two", "three")
# A private /tmp in which only the test's own directory is the machine's; a host name of its own.
SETTLE = """
set -e
mount --bind "$1" /mnt
mount -t tmpfs tmpfs /tmp
mkdir -p "$1"
mount --bind /mnt "$1"
umount /mnt
mount --bind "$1/hosts" /etc/hosts
hostname "$2"
shift 2
exec "$@"
"""


def possible() -> str:
    """Empty, or why it is not possible here."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        return "needs Linux and root"
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "needs ip and unshare"
    probe = subprocess.run(["unshare", "-m", "-u", "-n", "true"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "namespaces are not allowed here"


@dataclass
class Networks(RayNodes):
    """Nodes behind one bridge. `mark` makes the names of bridge and namespaces our own."""

    mark: str = ""

    @property
    def temporary(self) -> str:
        return "/tmp/ray"  # each node has its own

    def ip(self, name: str) -> str:
        return f"10.213.77.{NODES.index(name) + 11}"

    def inside(self, name: str) -> tuple[str, ...]:
        space = ("ip", "netns", "exec", f"{self.mark}-{name}", "unshare", "-m", "-u")
        return (*space, "sh", "-c", SETTLE, "settle", str(self.directory), f"elder-{name}")

    def beside(self, name: str) -> tuple[str, ...]:
        return ("nsenter", "-t", str(self.nodes[name].process.pid), "-m", "-u", "-n")

    def lay(self) -> None:
        """Make bridge and namespaces."""
        # As on Debian and Ubuntu, a host's own name leads nowhere that another host could reach.
        hosts = ["127.0.0.1 localhost", *(f"127.0.1.1 elder-{name}" for name in NODES)]
        (self.directory / "hosts").write_text("\n".join(hosts) + "\n")
        _ip("link", "add", self.mark, "type", "bridge")
        _ip("link", "set", self.mark, "up")
        for number, name in enumerate(NODES):
            space, outer = f"{self.mark}-{name}", f"{self.mark}v{number}"
            _ip("netns", "add", space)
            _ip("link", "add", outer, "type", "veth", "peer", "name", "eth0", "netns", space)
            _ip("link", "set", outer, "master", self.mark, "up")
            _ip("-n", space, "addr", "add", f"{self.ip(name)}/24", "dev", "eth0")
            _ip("-n", space, "link", "set", "eth0", "up")
            _ip("-n", space, "link", "set", "lo", "up")

    def lift(self) -> None:
        """Remove them; veth pairs go with their namespaces."""
        for name in NODES:
            with contextlib.suppress(subprocess.CalledProcessError):
                _ip("netns", "del", f"{self.mark}-{name}")
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip("link", "del", self.mark)


@contextlib.contextmanager
def networked_nodes(*names: str) -> Iterator[Networks]:
    """A head and nodes of one CPU each, every one with its own network."""
    directory = Path(tempfile.mkdtemp(prefix="elder-net-"))
    cluster = Networks(directory, mark=f"el{os.getpid() % 10**6}")
    try:
        cluster.lay()
        cluster.start("head", 0)
        for name in names:
            cluster.start(name)
        yield cluster
    finally:
        cluster.close()
        cluster.lift()
        shutil.rmtree(directory, ignore_errors=True)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
