"""Which test runs in which process when there are several (`pytest -n 2 --dist loadfile`).

A file stays in one process, and all files that start Ray clusters stay in the same one. They come first: they mostly
wait, and the other process has work for the while. Two clusters at a time would be slow on two cores. What starts
nothing but servers and drivers (`tests/cluster/test_faults.py`) waits beside them.
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


@cache
def starts_clusters(file: str) -> bool:
    """Whether a test file, named from the root, has tests that start Ray: by its markers and by what it uses."""
    text = (ROOT / file).read_text(encoding="utf-8")
    return "pytest.mark.cluster" in text or ("pytest.mark.nodes" in text and any(word in text for word in RAY))


class OneForClusters(LoadFileScheduling):
    """File by file, but for the files that start clusters, which go together."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "clusters" if starts_clusters(file) else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> OneForClusters | None:
    """Take over from `--dist loadfile`."""
    return OneForClusters(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """The files that start clusters come first, in every process."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: not starts_clusters(item.nodeid.partition("::")[0]))
