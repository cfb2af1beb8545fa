"""Which test runs in which process when there are several (`pytest -n 2 --dist loadfile`).

A file stays in one process, and all files that start Ray clusters stay in the same one. They come first: they mostly
wait, and the other process has work for the while. Two clusters at a time would be slow on two cores.

The node suite has little else, and mostly waits for nodes that come and go: there the files with clusters of several
nodes are in one process, the other clusters in the other. Each kind of cluster is still started once a session.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

ROOT = Path(__file__).resolve().parents[1]
# One of these words stands in every file of the node suite that starts Ray, by itself or by a fixture.
RAY = ("ray_cluster", "RayNodes", "job_head", "JobHead", "address: local")
SEVERAL = ("cluster: RayNodes", "ray_nodes(")  # one of these, of those that start a cluster of several nodes


@cache
def starts_clusters(file: str) -> bool:
    """Whether a test file, named from the root, has tests that start Ray: by its markers and by what it uses."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return "pytest.mark.cluster" in text or ("pytest.mark.nodes" in text and any(word in text for word in RAY))


def group_of(file: str, several: bool) -> str:
    """The files that share a process with this one have the same group.

    Args:
        file: Named from the root.
        several: Whether clusters of several nodes go apart from the others.
    """
    if not starts_clusters(file):
        return file
    text = (ROOT / file).read_text(encoding="utf-8")
    return "nodes" if several and any(word in text for word in SEVERAL) else "clusters"


class OneForClusters(LoadFileScheduling):
    """File by file, but for the files that start clusters, which go together."""

    def _split_scope(self, nodeid: str) -> str:
        several = str(self.config.getoption("markexpr", "")).startswith("nodes")
        return group_of(nodeid.partition("::")[0], several)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneForClusters | None:
    """Take over from `--dist loadfile`."""
    return OneForClusters(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files that start clusters come first, in every process."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not starts_clusters(item.nodeid.partition("::")[0]))
