"""One driver process under observation: what it said, what it left in the store, and what an accident cost it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from elder.infra.stores.open import open_store
from elder.pipelines.run.commits import RunState
from tests.cluster.driver import Order
from tests.cluster.nodes import PATIENCE_S, RayNodes, end_of, root, stop, trace, wait_until

FIGURES = "ELDER_FAULT_FIGURES"  # a file that collects what accidents cost, for docs/reliability.md


def digests(store: str | Path, s3: Mapping[str, Any] | None = None) -> list[str]:
    """State digests of all committed stages."""
    return [commit.state_digest for commit in RunState(open_store(store, s3), "run-1").commits()]


class Run:
    """A driver with its files under one directory; another one on the same directory continues it.

    Args:
        directory: For store, trace, events and log.
        cluster: Where it runs; None is in its own process, without Ray.
        hang: Whether rank 1 is to hang once in stage 1.
        cluster_settings: Over those that lead it to the cluster.
        store: Another place than the directory.
        **order: Further fields of `Order`.
    """

    def __init__(
        self,
        directory: Path,
        cluster: RayNodes | None = None,
        hang: bool = False,
        cluster_settings: Mapping[str, Any] | None = None,
        store: str = "",
        **order: Any,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.cluster = cluster
        self.trace, self.events_file = directory / "trace", directory / f"events-{time.monotonic_ns()}"
        self.log, self.marker = self.events_file.with_suffix(".log"), directory / "hangs"
        settings = {"address": cluster.address} if cluster else {}
        self.order = Order(
            store=store or str(directory / "store"),
            events=str(self.events_file),
            trace=str(self.trace) if cluster else "",
            workers=2 if cluster else 0,
            hang=str(self.marker) if hang else "",
            cluster={**settings, **(cluster_settings or {})},
            **order,
        )
        self.process: subprocess.Popen[bytes] | None = None
        self.began = self.ended = 0.0

    def start(self) -> None:
        """Start the driver."""
        self.began = time.time()
        if self.cluster is not None:
            self.process = self.cluster.drive("tests.cluster.driver", self.order.text(), log=self.log)
            return
        env = {**os.environ, "PYTHONPATH": str(root()), "OMP_NUM_THREADS": "1"}
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.driver", self.order.text()],
                cwd=root(),
                env=env,
                stdout=sink,
                stderr=subprocess.STDOUT,
            )

    def end(self, seconds: float = PATIENCE_S) -> int:
        """Wait for the driver's exit code."""
        assert self.process is not None
        code = end_of(self.process, self.log, seconds)
        self.ended = time.time()
        return code

    def stop(self, how: int = signal.SIGKILL) -> None:
        """Kill the driver."""
        assert self.process is not None
        stop(self.process, how)

    def events(self) -> list[dict[str, Any]]:
        """What happened so far."""
        if not self.events_file.exists():
            return []
        return [json.loads(line) for line in self.events_file.read_text().split("\n")[:-1]]

    def wait_for(self, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Wait for an event; the driver must not end before."""
        self._wait(lambda: any(wanted(event) for event in self.events()), "an event")

    def wait_for_hang(self) -> None:
        """Wait until rank 1 hangs in stage 1."""
        self._wait(self.marker.exists, "the run to hang")

    def _wait(self, ready: Callable[[], object], what: str) -> None:
        process = self.process
        assert process is not None
        wait_until(lambda: ready() or process.poll() is not None, what)
        assert ready(), f"the driver ended with {process.poll()} before {what}:\n{self.log_text()[-3000:]}"

    def log_text(self) -> str:
        """What the driver printed."""
        return self.log.read_text(errors="replace")

    def last_node(self, rank: int) -> str:
        """The node on which a rank was started last."""
        return trace(self.trace, rank)[-1]

    @property
    def digests(self) -> list[str]:
        """State digests of all committed stages."""
        return digests(self.order.store, self.order.s3)

    @property
    def attempts(self) -> list[str]:
        """The attempts of all committed stages."""
        return [c.attempt for c in RunState(open_store(self.order.store, self.order.s3), "run-1").commits()]


class Story:
    """An accident: when it happened, and afterwards what it cost.

    With the variable ELDER_FAULT_FIGURES the figures are appended to that file, one JSON object a line.
    """

    def __init__(self, name: str) -> None:
        self.name, self.struck = name, 0.0

    def strike(self) -> None:
        """It happens now."""
        self.struck = time.time()

    def tell(self, run: Run, truth: Sequence[str], replayed: bool = True) -> None:
        """Count from store and events, and write it down.

        Args:
            run: The run, or the one that continued it.
            truth: Digests of an undisturbed run.
            replayed: Whether a stage had to be begun again.
        """
        begun = [e for e in run.events() if e["kind"] == "phase" and e["name"] == "edit"]
        again = [e["at"] for e in begun if e["at"] > self.struck]
        assert again or not replayed, f"no stage was begun after {self.struck}: {begun}"
        self.count(truth, run.digests, again[0] - self.struck if replayed else 0.0)

    def count(self, truth: Sequence[str], found: Sequence[str], away_s: float = 0.0) -> None:
        """Write down stages lost and stages in a wrong state, and after how many seconds the work went on."""
        figures = {
            "fault": self.name,
            "stages": len(truth),
            "lost": sum(digest not in found for digest in truth),
            "wrong": sum(digest not in truth for digest in found),
            "away_s": round(away_s, 1),
            "date": time.strftime("%Y-%m-%d"),
        }
        place = os.environ.get(FIGURES)
        if place:
            with open(place, "a", encoding="utf-8") as file:
                file.write(json.dumps(figures) + "\n")
