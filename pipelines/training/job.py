"""A training as the stage loop sees it: a trainer that is given blocks of facts like an editor its edits.

Knows nothing of how a network is trained (`elder.hyper`), nor of runners, stores or trackers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol

from torch import Tensor

from elder.base import Base, Editor, EditProgress, Receipt
from elder.edit import Edit
from elder.errors import ElderError
from elder.metrics.report import EvaluationReport
from elder.pipelines.run.commits import ADAPTER_FILES, CONTINUATION
from elder.pipelines.run.spec import Measuring, RunSpec, WorkerParts, committed_manifest

WEIGHTS, MANIFEST = ADAPTER_FILES


class Trainer(Protocol):
    """The part of `elder.hyper.trainer.MetaTrainer` that a training uses. Every method but `save` is collective."""

    def step(self, edits: Sequence[Edit]) -> Mapping[str, float]:
        """Train on one block."""

    def validate(self, edits: Sequence[Edit], block_size: int | None = None) -> Mapping[str, float]:
        """Measure, and change nothing."""

    def state_dict(self) -> dict[str, Tensor]:
        """All that a continuation needs."""

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take such a state over."""

    def save(self, directory: Path, extra: Mapping[str, Any] | None = None) -> Any:
        """Write the trained editor."""


class TrainerAsEditor:
    """A trainer in the place of an editor: `edit` trains on the given facts, block after block.

    Args:
        trainer: The trainer.
        base: Its base model.
        block_size: Facts of a block.
    """

    def __init__(self, trainer: Trainer, base: Base, block_size: int) -> None:
        self.trainer, self.base, self.block_size = trainer, base, block_size

    def edit(self, edits: Sequence[Edit], progress: EditProgress | None = None) -> Receipt:
        """Train on facts.

        Raises:
            ElderError: A loss is not finite: the training has diverged, and further steps would only spread it.
        """
        begin, losses, seen = time.perf_counter(), [], []
        for first in range(0, len(edits), self.block_size):
            block = edits[first : first + self.block_size]
            figures = dict(self.trainer.step(block))
            seen.append(figures)
            losses.append(float(figures["loss"]))
            if not math.isfinite(losses[-1]):
                raise ElderError(
                    f"the loss of the editor's training is {losses[-1]} after {len(losses)} steps of this checkpoint; "
                    "lower editor.meta_lr or editor.lr, or clip harder (editor.clip)"
                )
            if progress is not None:
                progress(first + len(block), len(edits), losses[-1])
        names = [name for name in (seen[0] if seen else ()) if name != "seconds"]
        notes = {name: fmean(float(one[name]) for one in seen) for name in names}
        return Receipt((), (tuple(losses),), time.perf_counter() - begin, notes)

    def state_dict(self) -> dict[str, Tensor]:
        """All that a continuation needs."""
        return self.trainer.state_dict()

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take such a state over."""
        self.trainer.load_state_dict(state)


class TrainerEvaluator:
    """Measures a trainer on facts that it is not trained on.

    Args:
        trainer: The trainer.
        block_size: Facts edited together.
    """

    def __init__(self, trainer: Trainer, block_size: int) -> None:
        self.trainer, self.block_size = trainer, block_size

    def measure(
        self,
        edits: Sequence[Edit],
        parts: Sequence[str],
        progress: Callable[[int, int], None] | None = None,
        so_far: Sequence[Edit] | None = None,
    ) -> EvaluationReport:
        """Means over all facts, and a row for each block of them."""
        rows: list[dict[str, Any]] = []
        for first in range(0, len(edits), self.block_size):
            block = edits[first : first + self.block_size]
            figures = {f"validation.{name}": float(value) for name, value in self.trainer.validate(block).items()}
            rows.append({"block": len(rows), "edits": len(block), **figures})
            if progress is not None:
                progress(first + len(block), len(edits))
        names = [name for name in rows[0] if name not in ("block", "edits", "validation.seconds")]
        total = sum(row["edits"] for row in rows)
        means = {name: sum(row[name] * row["edits"] for row in rows) / total for name in names}
        return EvaluationReport({name: value for name, value in means.items() if math.isfinite(value)}, rows)


@dataclass(frozen=True)
class TrainingKit(WorkerParts):
    """How a worker makes the parts of a training. A checkpoint holds the trained editor, as others fetch it, and
    beside it what only a continuation needs, such as the moments of the optimiser."""

    def trainer(self, job: RunSpec, base: Base) -> Trainer:
        """A fresh trainer of the config's method."""
        from elder.hyper.trainer import make_trainer

        trainer: Trainer = make_trainer(job.config.editor.method, base, job.config.editor_options())
        return trainer

    def editor(self, job: RunSpec, base: Base) -> Editor:
        """The trainer, in the place of an editor."""
        return TrainerAsEditor(self.trainer(job, base), base, job.config.stream.batch_size)  # type: ignore[return-value]

    def meter(self, job: RunSpec, editor: Editor) -> Measuring:
        """The measurement of checkpoints."""
        size = getattr(job.config, "validation", None)
        block = size.block_size if size is not None else None
        return TrainerEvaluator(_trainer(editor), block or job.config.stream.batch_size)

    def save(self, directory: Path, editor: Editor, extra: Mapping[str, Any]) -> None:
        """Write the trained editor, and the rest of the state beside it: no tensor is written twice."""
        import torch

        from elder.tensor_files import read_tensors, write_tensors

        trainer = _trainer(editor)
        trainer.save(directory, extra=dict(extra))
        written = read_tensors(directory / WEIGHTS)
        state = trainer.state_dict()
        rest = {
            name: tensor.contiguous()
            for name, tensor in state.items()
            if name not in written or not torch.equal(written[name], tensor)
        }
        write_tensors(rest, directory / CONTINUATION, metadata={"shared": "\n".join(set(state) - set(rest))})

    def kept(self) -> tuple[str, ...]:
        """The names of the files that hold the state, the trained weights first, and of the manifest."""
        return (WEIGHTS, CONTINUATION, MANIFEST)

    def restore(self, directory: Path, editor: Editor) -> None:
        """Put the state together again.

        Raises:
            AdapterError: The facts before went through another chat template than those to come.
        """
        from elder.hyper.trained import check_chat
        from elder.tensor_files import open_safetensors, read_tensors

        check_chat(
            committed_manifest(directory).get("chat", {}),
            editor.base,
            "the training was begun on {made}, it has {now} now; set data.chat and data.system as they were, or begin "
            "a new run",
        )
        written, state = read_tensors(directory / WEIGHTS), read_tensors(directory / CONTINUATION)
        with open_safetensors(directory / CONTINUATION) as file:
            shared = (file.metadata() or {}).get("shared", "").split("\n")
        editor.load_state_dict({**state, **{name: written[name] for name in shared if name}})


def _trainer(editor: Any) -> Trainer:
    assert isinstance(editor, TrainerAsEditor)
    return editor.trainer
