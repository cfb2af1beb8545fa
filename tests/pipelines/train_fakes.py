"""A model-free trainer: its state depends on every block in order and on the sum over ranks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from elder.base import Base
from elder.edit import Edit, Probe
from elder.pipelines.config.training import TrainConfig, parse_train_config
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.training.data import TrainingData, read_training
from elder.pipelines.training.job import TrainingKit
from elder.runtime import Runtime, share
from elder.state import state_digest
from tests.pipelines.fakes import Mishap

FACTS = 23


def write_facts(path: Path, count: int = FACTS, probes: bool = True) -> Path:
    """Facts as a file of edits, each with a rephrase."""
    lines = []
    for i in range(count):
        locality = (Probe(f"Water number {i} is", "wet"),) if probes else ()
        edit = Edit(f"The colour of thing {i} is", f"shade {i}", rephrases=(f"Thing {i} has the colour",),
                    locality=locality)  # fmt: skip
        lines.append(json.dumps(edit.to_dict()))
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def make_train_config(root: Path, **sections: Any) -> TrainConfig:
    """A training of 7 steps of 4 facts, a checkpoint every 3, with 5 facts held out."""
    facts = root / "facts.jsonl"
    if not facts.exists():
        root.mkdir(parents=True, exist_ok=True)
        write_facts(facts)
    values: dict[str, Any] = {
        "name": "training",
        "run_id": "train-1",
        "data": {"source": "jsonl", "path": str(facts)},
        "validation": {"edits": 5, "block_size": 2},
        "training": {"steps": 7, "checkpoint_every": 3},
        "editor": {"method": "malmen", "n_edits": 4},
        "cluster": {"workers": 0},
        "tracking": {"mlflow": "unused.db"},
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section} if isinstance(section, dict) else section
    return parse_train_config(json.dumps(values), "test.yaml")


def facts_of(config: TrainConfig) -> TrainingData:
    """The facts of a config, read without a tokenizer."""
    return read_training(config)


class FakeTrainer:
    """Keeps a vector that every block changes, in order, and a moment that only a continuation needs."""

    def __init__(self, base: Base, mishaps: Sequence[Mishap] = (), scores: Sequence[float] = ()) -> None:
        self.base, self.mishaps, self.scores = base, mishaps, scores
        self.weights, self.moment, self.steps_done = torch.zeros(8), torch.zeros(8), 0
        self.nan_at = -1

    def step(self, edits: Sequence[Edit]) -> dict[str, float]:
        for mishap in self.mishaps:
            mishap.strike(self.base.runtime.rank, self.steps_done)
        change = torch.zeros(8)
        for edit in share(edits, self.base.runtime):
            change += torch.tensor([int(edit.id[i : i + 2], 16) for i in range(0, 16, 2)], dtype=torch.float32)
        self.moment = torch.cos(self.moment + self.base.runtime.sum(change) / 64).round(decimals=4)
        self.weights = torch.sin(self.weights + self.moment).round(decimals=4)
        self.steps_done += 1
        loss = float("nan") if self.steps_done == self.nan_at else 1.0 / self.steps_done
        return {"loss": loss, "edit_loss": 0.5, "locality_loss": 0.25, "gradient_norm": 2.0, "seconds": 0.1}

    def validate(self, edits: Sequence[Edit], block_size: int | None = None) -> dict[str, float]:
        checkpoint = (self.steps_done - 1) // 3
        score = self.scores[checkpoint] if self.scores else min(1.0, self.steps_done / 10)
        share_of_first = float(len(edits) == 2)  # blocks weigh by their facts
        return {"ES": score, "GS": score / 2, "LS": 1.0, "agreement": share_of_first, "seconds": 0.1}

    def state_dict(self) -> dict[str, Tensor]:
        return {
            "weights": self.weights.clone(),
            "moment": self.moment.clone(),
            "steps": torch.tensor(self.steps_done),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        self.weights, self.moment = state["weights"].clone(), state["moment"].clone()
        self.steps_done = int(state["steps"])

    def save(self, directory: Path, extra: Mapping[str, Any] | None = None) -> Any:
        state = {"weights": self.weights}
        save_file(state, str(directory / "adapter.safetensors"))
        manifest = {"kind": "trained-editor", "method": "malmen", "state_digest": state_digest(state)}
        (directory / "manifest.json").write_text(json.dumps({**manifest, "steps": self.steps_done, **(extra or {})}))


@dataclass(frozen=True)
class FakeTrainingKit(TrainingKit):
    """Fake parts; `mishaps` strike before the step of their number, `scores` are those of the checkpoints."""

    mishaps: tuple[Mishap, ...] = ()
    scores: tuple[float, ...] = ()
    nan_at: int = -1

    def base(self, job: RunSpec, runtime: Runtime) -> Base:
        model = nn.utils.skip_init(nn.Linear, 2, 2)
        nn.init.ones_(model.weight)
        nn.init.zeros_(model.bias)
        return Base(model, None, "fake", runtime)  # type: ignore[arg-type]

    def trainer(self, job: RunSpec, base: Base) -> Any:
        trainer = FakeTrainer(base, self.mishaps, self.scores)
        trainer.nan_at = self.nan_at
        return trainer
