"""What a run says and does while the cluster has no room for its workers: tell, wait, and not for ever.

The wait leaves Ray Train's request for resources pending, so that a cluster that grows sees it. Knows nothing of
stages; whether the workers run is told by Ray Train's controller through the mailbox.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

import ray

from elder.errors import UnreachableError
from elder.pipelines.cluster.ray_private import free_by_node
from elder.pipelines.config.run import ClusterConfig
from elder.pipelines.run.spec import EventHandler

TELL_S = 15.0  # between two notes while there is no room
START_S = 60.0  # between two notes while the workers have room and start
LOOK_S = 1.0


class PlacementWatch:
    """A thread of the driver that watches for workers without room; use it as a context around the run.

    Args:
        mailbox: Knows since when the workers do not run.
        cluster: What the run needs, and how long it waits.
        report: Receives a note every quarter of a minute.
    """

    def __init__(self, mailbox: Any, cluster: ClusterConfig, report: EventHandler, look_s: float = LOOK_S) -> None:
        self._mailbox, self._cluster, self._report, self._look_s = mailbox, cluster, report, look_s
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="elder-placement", daemon=True)
        self.error: UnreachableError | None = None

    def __enter__(self) -> PlacementWatch:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._done.set()
        self._thread.join(10)

    def _watch(self) -> None:
        told = 0.0
        with suppress(ray.exceptions.RayError):  # the mailbox is gone: the run is over
            while not self._done.wait(self._look_s):
                waited, controller = ray.get(self._mailbox.waiting.remote())
                if not waited:
                    told = 0.0
                    continue
                if waited > self._cluster.wait_for_resources_s:
                    self.error = UnreachableError(explain(self._cluster, *_look(self._cluster), waited))
                    self._give_up(controller)
                    return
                if waited - told >= TELL_S:
                    there, free, roomy = _look(self._cluster)
                    if not roomy or waited - told >= START_S:
                        self._report({"kind": "note", "text": waiting_note(self._cluster, there, free, roomy, waited)})
                        told = waited

    def _give_up(self, controller: Any) -> None:
        """End Ray Train's controller; its request for resources goes with it. It cannot be asked: it sits waiting."""
        end = time.monotonic() + 10
        while controller is None and time.monotonic() < end:
            time.sleep(0.2)
            controller = ray.get(self._mailbox.waiting.remote())[1]
        if controller is not None:
            ray.kill(controller)


def waiting_note(
    cluster: ClusterConfig, there: Mapping[str, float], free: Mapping[str, float], roomy: bool, waited: float
) -> str:
    """One line for the log: what is waited for, and what the cluster has."""
    if roomy:
        return f"the workers have their place and have been starting for {waited:.0f} s"
    left = max(0.0, cluster.wait_for_resources_s - waited)
    return (
        f"no room for the workers for {waited:.0f} s: needed {needs(cluster)}; the cluster has "
        f"{_listed(cluster, there)}, free {_listed(cluster, free)}; waiting {left:.0f} s more "
        "(cluster.wait_for_resources_s)"
    )


def explain(
    cluster: ClusterConfig, there: Mapping[str, float], free: Mapping[str, float], roomy: bool, waited: float
) -> str:
    """The paragraph with which a run gives up."""
    if roomy:
        return (
            f"the workers had their place but did not start within {waited:.0f} s (cluster.wait_for_resources_s): "
            "look at the logs of their nodes (ray logs), and whether a node's disk or image is very slow"
        )
    return (
        f"the cluster had no room for the workers for {waited:.0f} s (cluster.wait_for_resources_s): the run needs "
        f"{needs(cluster)}; the cluster has {_listed(cluster, there)}, of which {_listed(cluster, free)} are free"
        f"{_largest(cluster)}. Wait until other jobs end (elder jobs), add nodes or let the cluster grow "
        "(max_workers), or take fewer or smaller workers (cluster.workers, cluster.cpus_per_worker, "
        "cluster.gpus_per_worker). What is committed is kept, and the same command resumes from it"
    )


def needs(cluster: ClusterConfig) -> str:
    """`2 workers of 1 CPU and 1 GPU (2 CPU, 2 GPU in all)`."""
    each = worker_resources(cluster)
    one = " and ".join(f"{amount:g} {name}" for name, amount in each.items())
    whole = ", ".join(f"{amount * cluster.workers:g} {name}" for name, amount in each.items())
    return f"{cluster.workers} {'worker' if cluster.workers == 1 else 'workers'} of {one} ({whole} in all)"


def worker_resources(cluster: ClusterConfig) -> dict[str, float]:
    """What Ray reserves for each worker."""
    gpus = {"GPU": cluster.gpus_per_worker} if cluster.gpus_per_worker else {}
    return {"CPU": cluster.cpus_per_worker, **gpus}


def _listed(cluster: ClusterConfig, amounts: Mapping[str, float]) -> str:
    return " and ".join(f"{amounts.get(name, 0.0):g} {name}" for name in worker_resources(cluster))


def _look(cluster: ClusterConfig) -> tuple[dict[str, float], dict[str, float], bool]:
    """What the cluster has, what of it is free, and whether the workers have room there or their place already."""
    there, free = dict(ray.cluster_resources()), dict(ray.available_resources())  # type: ignore[no-untyped-call]
    each = worker_resources(cluster)
    room = sum(_fit(each, node) for node in free_by_node().values())
    return there, free, room >= cluster.workers or _placed(cluster)


def _fit(each: Mapping[str, float], node: Mapping[str, float]) -> int:
    """How many workers one node takes."""
    return min(math.floor(node.get(name, 0.0) / amount + 1e-9) for name, amount in each.items())


def _placed(cluster: ClusterConfig) -> bool:
    """Whether a request like ours has been granted."""
    wanted = [worker_resources(cluster)] * cluster.workers
    for group in ray.util.placement_group_table().values():  # type: ignore[no-untyped-call]
        if group["state"] == "CREATED" and list(group["bundles"].values()) == wanted:
            return True
    return False


def _largest(cluster: ClusterConfig) -> str:
    """A hint when no single node could take even one worker."""
    nodes = [node["Resources"] for node in ray.nodes() if node.get("Alive")]  # type: ignore[no-untyped-call]
    each = worker_resources(cluster)
    if not nodes or any(_fit(each, node) for node in nodes):
        return ""
    best = " and ".join(f"{max(node.get(name, 0.0) for node in nodes):g} {name}" for name in each)
    return f"; no node is large enough for one worker (the largest has {best})"
