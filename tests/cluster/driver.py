"""A driver in a process of its own, told what to do in JSON: `python -m tests.cluster.driver '{"store": DIR, ...}'`.

Its exit code is that of `elder edit`. Its events go into a file, each with the time.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from elder.base import Base, Receipt
from elder.edit import Edit
from elder.infra.stores.open import store_factory
from elder.jobs.main import BRISK, SILENT, exit_code
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.protocols import Tracker
from elder.pipelines.run.spec import RunSpec, WorkerParts
from elder.runtime import Runtime
from tests.cluster.nodes import leave_trace
from tests.pipelines.fakes import FakeEditor, FakeKit, Mishap, RecordingTracker, make_config, make_edits

ANSWER_S = "10"  # so long is an answer of MLflow waited for; 60 by default, and outages are shorter here
EDITS, HANG_AT = 10, 6  # three stages; whoever hangs does so in the middle of stage 1


@dataclass(frozen=True)
class Order:
    """What a driver is to do.

    Attributes:
        store: Directory or s3 address.
        events: File for the events.
        trace: Directory in which every rank says where it was started.
        workers: Ray workers; 0 is this process.
        edits: Length of the stream.
        hang: Marker; rank 1, or the only one, hangs once in the middle of stage 1 and makes it.
        pause: Seconds that each stage of the fake editor takes.
        model: Directory of a real model, which is then edited with elder-plus; without it everything is fake.
        mlflow: Address of a server; without it nothing is recorded.
        cluster: Further settings of the config's section.
        tracking: Likewise.
        s3: Settings of an s3 store.
        ballast: Numbers of four bytes that make every adapter larger.
    """

    store: str
    events: str
    trace: str = ""
    workers: int = 0
    edits: int = EDITS
    hang: str = ""
    pause: float = 0.0
    model: str = ""
    mlflow: str = ""
    cluster: Mapping[str, Any] | None = None
    tracking: Mapping[str, Any] | None = None
    s3: Mapping[str, Any] | None = None
    ballast: int = 0

    def text(self) -> str:
        """As an argument of this program."""
        return json.dumps(vars(self))


@dataclass(frozen=True)
class SlowFakeKit(FakeKit):
    """The fake parts; every rank leaves a trace, and every stage takes its time."""

    where: str = ""
    pause: float = 0.0
    ballast: int = 0

    def base(self, job: RunSpec, runtime: Runtime) -> Base:
        if self.where:
            leave_trace(self.where, runtime.rank)
        return super().base(job, runtime)

    def editor(self, job: RunSpec, base: Base) -> Any:
        editor = SlowFakeEditor(base, job.config.stream.batch_size, job.config.seed, self.mishaps)
        editor.pause = self.pause
        return editor

    def save(self, directory: Path, editor: Any, extra: Mapping[str, Any]) -> None:
        super().save(directory, editor, extra)
        if self.ballast:
            path = directory / "adapter.safetensors"
            save_file({**load_file(path), "ballast": torch.rand(self.ballast)}, path)


class SlowFakeEditor(FakeEditor):
    pause = 0.0

    def edit(self, edits: Sequence[Edit], progress: Callable[[int, int, float], None] | None = None) -> Receipt:
        time.sleep(self.pause)
        return super().edit(edits, progress)


@dataclass(frozen=True)
class TracedKit(WorkerParts):
    """The real parts; every rank leaves a trace."""

    where: str = ""

    def base(self, job: RunSpec, runtime: Runtime) -> Base:
        leave_trace(self.where, runtime.rank)
        return super().base(job, runtime)


def carry_out(order: Order, on_event: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
    """Run it."""
    tracking = {"mlflow": order.mlflow or "unused.db", "store": order.store, "experiment": "test"}
    cluster = {"workers": order.workers, "sharding": "none", **(order.cluster or {})}
    sections: dict[str, Any] = {"tracking": {**tracking, **(order.tracking or {})}, "cluster": cluster}
    kit: WorkerParts
    if order.model:
        from tests.cluster.tiny import make_edits as real_edits

        sections["model"] = {"source": order.model}
        sections["editor"] = {"method": "elder-plus", "steps": 12, "extra_steps": 12}
        sections["evaluation"] = {"protocols": ["generate", "forced"], "max_new_tokens": 4}
        kit, edits = TracedKit(order.trace), real_edits(order.edits)
    else:
        rank = 1 if order.workers > 1 else 0
        mishaps = (Mishap("sleep", HANG_AT, order.hang, rank=rank),) if order.hang else ()
        kit = SlowFakeKit(mishaps=mishaps, where=order.trace, pause=order.pause, ballast=order.ballast)
        edits = make_edits(order.edits)
    config = make_config(**sections)
    factory = store_factory(order.store, order.s3)
    return run_edit(config, factory, _tracker(order), on_event, edits=edits, kit=kit)


def _tracker(order: Order) -> Tracker:
    if not order.mlflow:
        return RecordingTracker()
    from elder.infra.tracking.tracker import MlflowTracker

    return MlflowTracker(order.mlflow, "test")


def main(text: str) -> int:
    """Carry an order out; the exit code is that of the command line."""
    os.environ.update({**SILENT, **BRISK, "MLFLOW_HTTP_REQUEST_TIMEOUT": ANSWER_S})
    order = Order(**json.loads(text))
    with Path(order.events).open("a") as sink:

        def on_event(event: Mapping[str, Any]) -> None:
            sink.write(json.dumps({"at": time.time(), **event}) + "\n")
            sink.flush()

        try:
            carry_out(order, on_event)
        except Exception as error:
            traceback.print_exc()
            print(f"error: {error}", flush=True)
            return exit_code(error)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
