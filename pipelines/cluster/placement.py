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
from elder.pipelines.run.takeover import OlderDriver

TELL_S = 15.0  # between two notes while there is no room
START_S = 60.0  # between two notes while the workers have room and start
LOOK_S = 1.0
ABORT_S = 5.0  # for which a controller may take to end its workers itself


class PlacementWatch:
    """A thread of the driver that watches for workers without room; use it as a context around the run.

    Args:
        mailbox: Knows since when the workers do not run.
        cluster: What the run needs, and how long it waits.
        report: Receives a note every quarter of a minute.
        older: The driver from which this one takes the run over; its workers may have the room.
    """

    def __init__(
        self,
        mailbox: Any,
        cluster: ClusterConfig,
        report: EventHandler,
        older: OlderDriver,
        look_s: float = LOOK_S,
    ) -> None:
        self._mailbox, self._cluster, self._report, self._look_s = mailbox, cluster, report, look_s
        self._older = older
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
        told, limit = 0.0, self._cluster.wait_for_resources_s
        older = self._older.holds()
        with suppress(ray.exceptions.RayError):  # the mailbox is gone: the run is over
            while not self._done.wait(self._look_s):
                waited = ray.get(self._mailbox.waiting.remote())[0]
                if not waited:
                    told, limit = 0.0, self._cluster.wait_for_resources_s
                    continue
                if waited > limit:
                    if older and not self._older.left_to_it():  # it stops now: its room comes, and nobody else is left
                        older, limit = "", waited + self._cluster.wait_for_resources_s
                        continue
                    self.error = UnreachableError(explain(self._cluster, *_look(self._cluster), waited, older))
                    end_controller(self._mailbox)
                    return
                if waited - told >= TELL_S:
                    there, free, roomy = _look(self._cluster)
                    if older and not (older := self._older.holds()):
                        limit = waited + self._cluster.wait_for_resources_s
                    if not roomy or waited - told >= START_S:
                        text = waiting_note(self._cluster, there, free, roomy, waited, limit - waited, older)
                        self._report({"kind": "note", "text": text})
                        told = waited


def end_controller(mailbox: Any) -> None:
    """End Ray Train's controller and its workers; a request for resources goes with it.

    One that waits for resources does not hear, so it is killed in the end.
    """
    end = time.monotonic() + 10
    with suppress(ray.exceptions.RayError):
        while (controller := ray.get(mailbox.waiting.remote())[1]) is None and time.monotonic() < end:
            time.sleep(0.2)
        if controller is not None:
            with suppress(ray.exceptions.RayError):
                ray.get(controller.abort.remote(), timeout=ABORT_S)
            ray.kill(controller)


def waiting_note(
    cluster: ClusterConfig,
    there: Mapping[str, float],
    free: Mapping[str, float],
    roomy: bool,
    waited: float,
    left: float,
    older: str = "",
) -> str:
    """One line for the log: what is waited for, what the cluster has, and who may have the rest.

    Args:
        cluster: What the run needs.
        there: What the cluster has.
        free: What of it is free.
        roomy: Whether that is enough.
        waited: Seconds so far.
        left: Seconds until the run gives up.
        older: The older driver of the run that still holds it, in words.
    """
    if roomy:
        return f"the workers have their place and have been starting for {waited:.0f} s"
    return (
        f"no room for the workers for {waited:.0f} s: needed {needs(cluster)}; the cluster has "
        f"{_listed(cluster, there)}, free {_listed(cluster, free)}; waiting {max(0.0, left):.0f} s more "
        f"(cluster.wait_for_resources_s){_held(older)}"
    )


def _held(older: str) -> str:
    return f"; the older driver of this run still holds it, if it is alive ({older})" if older else ""


def explain(
    cluster: ClusterConfig,
    there: Mapping[str, float],
    free: Mapping[str, float],
    roomy: bool,
    waited: float,
    older: str = "",
) -> str:
    """The paragraph with which a run gives up."""
    left = f". The run is left to its older driver, which continues if it is alive ({older})" if older else ""
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
        f"cluster.gpus_per_worker). What is committed is kept, and the same command resumes from it{left}"
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
