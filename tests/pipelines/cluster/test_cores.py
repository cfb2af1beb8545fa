"""Cores that a process may use, by affinity and by the quotas of both versions of cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from elder.pipelines.cluster.cores import threads_each, usable_cores

V1 = "12:pids:/docker/abc\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/docker/abc\n"


@pytest.fixture(autouse=True)
def sixteen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scheduler allows 16 cores, whatever machine this is."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(16)), raising=False)


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


CASES: dict[str, tuple[dict[str, str], int]] = {
    "no-cgroups": ({}, 16),
    "v2-none": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 16),
    "v2-container": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "400000 100000\n"}, 4),
    "v2-half-a-core-counts-down": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
    "v2-less-than-one": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "20000 100000\n"}, 1),
    "v2-more-than-there-are": ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "6400000 100000\n"}, 16),
    "v2-above-decides": (
        {
            "proc/self/cgroup": "0::/kubepods/pod1/main\n",
            "sys/fs/cgroup/kubepods/cpu.max": "max 100000\n",
            "sys/fs/cgroup/kubepods/pod1/cpu.max": "300000 100000\n",
            "sys/fs/cgroup/kubepods/pod1/main/cpu.max": "800000 100000\n",
        },
        3,
    ),
    "v2-from-outside": ({"proc/self/cgroup": "0::/../../x\n", "sys/fs/cgroup/cpu.max": "500000 100000\n"}, 5),
    "v1-container": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "600000\n",
            "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
        },
        6,
    ),
    "v1-own-group": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "100000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "50000\n",
        },
        2,
    ),
    "v1-none": (
        {
            "proc/self/cgroup": V1,
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
        16,
    ),
    "both": (  # systemd's hybrid: the controller is in version 1
        {
            "proc/self/cgroup": V1 + "0::/docker/abc\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_quota_us": "700000\n",
            "sys/fs/cgroup/cpu/docker/abc/cpu.cfs_period_us": "100000\n",
        },
        7,
    ),
    "unreadable": ({"proc/self/cgroup": "0::/\nnonsense\n", "sys/fs/cgroup/cpu.max": "four hundred\n"}, 16),
}


@pytest.mark.parametrize("name", CASES)
def test_quotas(name: str, tmp_path: Path) -> None:
    files, wanted = CASES[name]
    assert usable_cores(write(tmp_path, files)) == wanted


def test_affinity_counts_where_it_is_narrower(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 7}, raising=False)
    assert usable_cores(write(tmp_path, CASES["v2-container"][0])) == 2


def test_without_an_affinity_all_cores_count(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 12)
    assert usable_cores(tmp_path) == 12
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cores(tmp_path) == 1


def test_threads_are_shared_out() -> None:
    assert [threads_each(16, workers) for workers in (0, 1, 3, 16, 40)] == [16, 16, 5, 1, 1]
