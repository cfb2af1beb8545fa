"""A model-free stand-in for editor, evaluator and adapter files, so that the pipeline itself can be tested fast.

The editor's state depends on the order of the edits, on every edit exactly once, on torch's global randomness
and on the sum over ranks: a stage that is lost, doubled or replayed differently changes the digest.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from elder.base import Base, EditOutcome, Receipt
from elder.edit import Edit, Probe
from elder.errors import ElderError, UnreachableError
from elder.infra.stores.local import LocalStore
from elder.infra.tracking.null import NullTracker
from elder.pipelines.config.run import RunConfig, parse_config
from elder.pipelines.run.spec import RunSpec, WorkerParts
from elder.runtime import Runtime, share
from elder.state import pack_json, state_digest, unpack_json, weights_digest


def make_edits(count: int) -> list[Edit]:
    """Edits that differ; no rephrases."""
    return [Edit(f"The colour of thing {i} is", f"shade {i}", locality=(Probe("Water is"),)) for i in range(count)]


def make_config(**sections: Any) -> RunConfig:
    """A config in which tests set what they are about; method options stay at their defaults."""
    values: dict[str, Any] = {
        "name": "test",
        "run_id": "run-1",
        "stream": {"stage_size": 4, "batch_size": 2},
        "editor": {"method": "elder"},
        "evaluation": {"protocols": ["generate"]},
        "cluster": {"workers": 0},
        "tracking": {"mlflow": "unused.db"},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return parse_config(json.dumps(values), "test.yaml")


@dataclass(frozen=True)
class StoreAt:
    """Picklable factory of a directory store."""

    root: str

    def __call__(self) -> LocalStore:
        return LocalStore(self.root)


@dataclass(frozen=True)
class Mishap:
    """What goes wrong, once: before the edit with this number is applied, on this rank.

    `kind`: `kill` (SIGKILL of the process), `raise` (an error that Ray may retry), `refuse` (an ElderError),
    `sleep` (a stage that takes long, so that a test can kill from outside). The marker file remembers that it
    happened; without `once` it happens every time.
    """

    kind: str
    edit: int
    marker: str
    rank: int = 0
    once: bool = True
    after: str = ""  # a file that must be there first

    def strike(self, rank: int, number: int) -> None:
        """Do it, if this is the place."""
        if rank != self.rank or number != self.edit or not (self.after == "" or os.path.exists(self.after)):
            return
        if self.once:
            try:
                os.close(os.open(self.marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
        if self.kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.kind == "raise":
            raise ValueError("the fake editor stumbled")
        if self.kind == "refuse":
            raise ElderError("the fake editor will not")
        if self.kind == "sleep":
            time.sleep(600)


class FakeEditor:
    """Keeps a vector that every edit changes, in order."""

    method = "fake"

    def __init__(self, base: Base, batch_size: int, seed: int, mishaps: Sequence[Mishap] = ()) -> None:
        self.base, self.options, self.model = base, {"seed": seed}, base.model
        self.vector = torch.zeros(8)
        self.ids: list[str] = []
        self._batch, self._mishaps = batch_size, mishaps

    def edit(self, edits: Sequence[Edit], progress: Callable[[int, int, float], None] | None = None) -> Receipt:
        runtime = self.base.runtime
        for start in range(0, len(edits), self._batch):
            batch = edits[start : start + self._batch]
            for mishap in self._mishaps:
                for number in range(len(self.ids), len(self.ids) + len(batch)):
                    mishap.strike(runtime.rank, number)
            change = torch.zeros(8)
            for edit in share(batch, runtime):
                change += torch.tensor([int(edit.id[i : i + 2], 16) for i in range(0, 16, 2)], dtype=torch.float32)
            self.vector = torch.cos(self.vector + runtime.sum(change) / 64).round(decimals=4) + torch.rand(8)
            self.ids += [edit.id for edit in batch]
            if progress is not None:
                progress(min(start + self._batch, len(edits)), len(edits), 0.5)
        outcomes = tuple(EditOutcome(edit.id, True, 0.25) for edit in edits)
        return Receipt(outcomes, ((1.0, 0.5),), 0.01, {"seen": float(len(self.ids))})

    def disabled(self) -> Any:
        return nullcontext()

    def routed_at(self, positions: Tensor) -> Any:
        return nullcontext()

    def in_scope(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor | None:
        return None

    def state_dict(self) -> dict[str, Tensor]:
        return {"vector": self.vector.clone(), "ids": pack_json(self.ids)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.vector = state["vector"].clone()
        self.ids = unpack_json(state["ids"])

    def save(self, directory: str | Path) -> None:
        raise NotImplementedError

    def base_digest(self) -> str:
        return weights_digest(self.base.model, self.base.runtime)


@dataclass
class FakeReport:
    metrics: dict[str, float]
    rows: list[dict[str, Any]]


@dataclass
class FakeMeter:
    """Says that an edit holds when the editor has seen it once; remembers what it was asked."""

    editor: FakeEditor
    asked: list[list[str]] = field(default_factory=list)

    def measure(
        self,
        edits: Sequence[Edit],
        parts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
        so_far: Sequence[Edit] | None = None,
    ) -> FakeReport:
        self.asked.append([edit.id for edit in edits])
        held = [float(self.editor.ids.count(edit.id) == 1) for edit in edits]
        rows: list[dict[str, Any]] = [
            {"edit_id": edit.id, "prompt": edit.prompt, "target": edit.target, "reliability.generate.text": "x"}
            for edit in edits
        ]
        for row, value in zip(rows, held, strict=True):
            row["reliability.generate"] = value
        if progress is not None:
            progress(len(edits), len(edits))
        return FakeReport({"reliability.generate": sum(held) / len(held), "perplexity": 7.0}, rows)


@dataclass(frozen=True)
class FakeKit(WorkerParts):
    """Fake parts; `weight` is the base model's only weight, `mishaps` go wrong in the editor."""

    weight: float = 1.0
    mishaps: tuple[Mishap, ...] = ()

    def base(self, job: RunSpec, runtime: Runtime) -> Base:
        model = nn.utils.skip_init(nn.Linear, 2, 2)
        nn.init.constant_(model.weight, self.weight)
        nn.init.zeros_(model.bias)
        return Base(model, None, "fake", runtime)  # type: ignore[arg-type]

    def editor(self, job: RunSpec, base: Base) -> Any:
        return FakeEditor(base, job.config.stream.batch_size, job.config.seed, self.mishaps)

    def meter(self, job: RunSpec, editor: Any) -> Any:
        return FakeMeter(editor)

    def save(self, directory: Path, editor: Any, extra: Mapping[str, Any]) -> None:
        state = editor.state_dict()
        save_file(state, directory / "adapter.safetensors")
        (directory / "manifest.json").write_text(json.dumps({"state_digest": state_digest(state), **extra}))


class RecordingTracker(NullTracker):
    """Keeps what it is told; fails on the calls named in `failing` until it has failed so often."""

    def __init__(self, failing: Mapping[str, int] | None = None) -> None:
        super().__init__()
        self.failing = dict(failing or {})
        self.metrics: dict[int, dict[str, float]] = {}
        self.tables: dict[str, list[dict[str, Any]]] = {}
        self.adapters: dict[int, str] = {}
        self.sources: dict[int, str | None] = {}
        self.artifacts: set[str] = set()
        self.registered: list[tuple[str, str | None]] = []
        self.statuses: list[str] = []
        self.starts = 0
        self.calls: Counter[str] = Counter()  # how often something of a stage was logged

    def _may_fail(self, call: str) -> None:
        if self.failing.get(call, 0) > 0:
            self.failing[call] -= 1
            raise UnreachableError(f"no answer to {call}")

    def start(
        self, run_id: str, name: str, config: Mapping[str, Any], tags: Mapping[str, str], parent: str | None = None
    ) -> str:
        self._may_fail("start")
        self.starts += 1
        return super().start(run_id, name, config, tags, parent)

    def log_metrics(self, values: Mapping[str, float], step: int) -> None:
        self._may_fail("log_metrics")
        self.calls["log_metrics"] += 1
        self.metrics[step] = dict(values)

    def log_artifact(self, path: Path, folder: str = "") -> None:
        self.artifacts.add(f"{folder}/{path.name}".lstrip("/"))

    def log_table(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.calls["log_table"] += 1
        self.tables[name] = [dict(row) for row in rows]

    def log_adapter(
        self, stage: int, directory: Path, metrics: Mapping[str, float], step: int, source: str | None = None
    ) -> str:
        self._may_fail("log_adapter")
        self.calls["log_adapter"] += 1
        self.sources[stage] = source
        self.adapters[stage] = (directory / "manifest.json").read_text()
        return super().log_adapter(stage, directory, metrics, step)

    def logged(self, tables: Sequence[str], stages: Sequence[int]) -> tuple[set[str], dict[int, str]]:
        known, models = super().logged(tables, stages)
        return known & set(self.tables), {stage: models[stage] for stage in stages if stage in self.adapters}

    def register(self, model_id: str, name: str, alias: str | None, tags: Mapping[str, str]) -> int:
        self.registered.append((name, alias))
        return super().register(model_id, name, alias, tags)

    def finish(self, status: str) -> None:
        self.statuses.append(status)


def leave_out_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing costs seconds and is tested elsewhere: every plot is the same few bytes."""
    for room in ("pages.axes", "suite.study_plots"):
        monkeypatch.setattr(f"elder.pipelines.{room}.to_png_panels", lambda draw, size: b"\x89PNG" * 40)
