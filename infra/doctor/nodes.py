"""Looks at every node of a Ray cluster: versions, GPUs, disk, servers. Needs nothing else of this package.

`python nodes.py SPEC` joins a cluster, sends one small task to every node, and prints what they saw as JSON after
`MARK`. It runs in another process here, or travels to a cluster as a job; hence the standard library and Ray only, and
Elder just where a node has it.
"""

from __future__ import annotations

import email.utils
import importlib.metadata
import json
import logging
import os
import platform
import shutil
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

MARK = "ELDER-DOCTOR "
COMPILERS = ("c++", "g++", "clang++")
REACH_S = 5.0
NODE_S = 25.0  # how long a node may take to answer: a worker is started there, which loads torch


def look(urls: list[str], markers: list[str]) -> dict[str, Any]:
    """Look at this machine: what it has and reaches.

    Args:
        urls: Servers to be asked for the time of day.
        markers: Files that should be visible here, because they lie on a shared file system.
    """
    gpus, backend, importable = [], None, True
    try:
        from elder.device import accelerators, gpu_backend_built_in

        gpus = [[name, round(memory / 2**30)] for name, memory in accelerators()]
        backend = gpu_backend_built_in()
    except ImportError:
        importable = False
    programs = {"compiler": COMPILERS, "ninja": ("ninja",)}
    return {
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("ray", "torch", "elder")},
        "importable": importable,
        "gpus": gpus,
        "gpu_backend": backend,
        "programs": {name: any(shutil.which(one) for one in names) for name, names in programs.items()},
        "free_gb": shutil.disk_usage(tempfile.gettempdir()).free / 1e9,
        "reach": {url: ask_time(url) for url in urls},
        "markers": {path: os.path.exists(path) for path in markers},
        "time": time.time(),
    }


def version(name: str) -> str | None:
    """The version of a package; None where it is not installed."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def ask_time(url: str) -> dict[str, Any]:
    """Whether a server answers here, and how many seconds this machine's clock is ahead of the server's."""
    begun = time.time()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=REACH_S) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")  # a refusal is an answer
    except Exception as error:
        return {"ok": False, "error": str(getattr(error, "reason", error)), "ahead_s": None}
    if date is None:
        return {"ok": True, "error": "", "ahead_s": None}
    then = email.utils.parsedate_to_datetime(date).timestamp() + 0.5  # the header has whole seconds
    return {"ok": True, "error": "", "ahead_s": (begun + time.time()) / 2 - then}


def survey(address: str, urls: list[str], markers: list[str], node_s: float = NODE_S) -> dict[str, Any]:
    """Ask every node of a cluster.

    Args:
        address: As `ray.init` takes it.
        urls: As `look`.
        markers: As `look`.
        node_s: How many seconds a node may take to answer.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, namespace="elder-doctor")
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(look)
        begun = time.time()
        asked = {}
        for node in (node for node in ray.nodes() if node["Alive"]):  # type: ignore[no-untyped-call]
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked[task.options(scheduling_strategy=here).remote(urls, markers)] = node
        answered, _ = ray.wait(list(asked), num_returns=len(asked), timeout=node_s)
        ended = time.time()
        reports = []
        for reference, node in asked.items():
            report: dict[str, Any] = {"error": f"no answer within {node_s:.0f} s"}
            if reference in answered:
                try:
                    report = {**dict(ray.get(reference)), "error": ""}  # type: ignore[arg-type]
                except Exception as error:
                    report["error"] = (str(error).strip().splitlines() or [type(error).__name__])[-1]
            name, gpus = node.get("NodeManagerAddress", node["NodeID"][:12]), node.get("Resources", {}).get("GPU", 0)
            reports.append({**report, "node": name, "id": node["NodeID"][:6], "gpus_for_ray": gpus})
        return {"ray": ray.__version__, "between": [begun, ended], "nodes": reports}
    finally:
        ray.shutdown()


if __name__ == "__main__":
    print(MARK + json.dumps(survey(**json.loads(sys.argv[1]))), flush=True)
