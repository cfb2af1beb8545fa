"""The streams whose numbers are kept: seven edits under every method, and two steps of meta-training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import elder
from elder.base import Base
from elder.edit import Probe
from elder.hyper.trainer import make_trainer
from elder.registry import make_training
from tests.cluster.tiny import SHADES, THINGS, make_edits
from tests.double import in_double
from tests.golden.model import make_base
from tests.methods import TABLE

ARCHITECTURES = ("llama", "gpt2")
METHODS = {name: row.options for name, row in TABLE.items()}
TRAINING = {name: row.training for name, row in TABLE.items() if row.training}
FIRST_CALL = 4  # edits of the first of two calls: the stream is 3 + 1 and 3 edits


@dataclass(frozen=True)
class Outcome:
    """What a stream ends in.

    Attributes:
        losses: The loss of every step of every batch, or the figures of every step of a training.
        state: Of the editor, or of the trainer.
        answers: The greedy continuation of every prompt, as text; none of a training.
    """

    losses: list[list[float]]
    state: dict[str, Tensor]
    answers: list[str]


def cases() -> list[str]:
    """The name of every stream: `memit llama`, `mend training gpt2`."""
    names = [*METHODS, *(f"{method} training" for method in TRAINING)]
    return [f"{name} {architecture}" for name in names for architecture in ARCHITECTURES]


def run(case: str, dtype: torch.dtype, directory: Path) -> Outcome:
    """Compute a stream, on one thread.

    Args:
        case: Its name.
        dtype: float32, or float64, in which then everything is computed.
        directory: Where a text may be written.
    """
    name, _, architecture = case.rpartition(" ")
    with one_thread():
        if dtype == torch.float64:
            with in_double("transformers.models.gpt2.modeling_gpt2"):
                return _run(name, make_base(architecture, dtype=dtype), directory)
        return _run(name, make_base(architecture, dtype=dtype), directory)


def _run(name: str, base: Base, directory: Path) -> Outcome:
    method, _, training = name.partition(" ")
    return train(method, base) if training else edit(method, base, directory)


def edit(method: str, base: Base, directory: Path) -> Outcome:
    """Two calls of `edit` and the answers after them."""
    options = METHODS[method]
    if "text_tokens" in options:
        options = {**options, "text": str(write_text(directory))}
    editor = elder.make_editor(method, base, **options)
    edits = make_edits(7)
    losses = [*editor.edit(edits[:FIRST_CALL]).losses, *editor.edit(edits[FIRST_CALL:]).losses]
    answers = answers_of(editor, [text for e in edits for text in (e.prompt, e.rephrases[1], e.locality[0].prompt)])
    return Outcome([list(curve) for curve in losses], editor.state_dict(), answers)


def train(method: str, base: Base) -> Outcome:
    """Two steps of meta-training on blocks of four and three facts."""
    trainer = make_trainer(method, base, make_training(method, TRAINING[method]))
    facts = [replace(e, locality=(*e.locality, Probe("Water has", "a"))) for e in make_edits(7)]
    figures = [trainer.step(block) for block in (facts[:4], facts[4:])]
    wanted = ("loss", "edit_loss", "locality_loss", "change", "gradient_norm")
    return Outcome([[step[name] for name in wanted] for step in figures], trainer.state_dict(), [])


@torch.no_grad()
def answers_of(editor: Any, prompts: Sequence[str], tokens: int = 3) -> list[str]:
    """The greedy continuation of each prompt, three words of it."""
    tokenizer, answers = editor.base.tokenizer, []
    for prompt in prompts:
        given = tokenizer(prompt, return_tensors="pt")
        ids = editor.model.generate(
            input_ids=given["input_ids"], attention_mask=given["attention_mask"], max_new_tokens=tokens, do_sample=False
        )
        answers.append(tokenizer.decode(ids[0, given["input_ids"].shape[1] :]))
    return answers


def write_text(directory: Path) -> Path:
    """The text of the statistics."""
    path = directory / "text.txt"
    path.write_text("\n".join(f"The colour of t{i} is s{j} ." for i in range(THINGS) for j in range(0, SHADES, 4)))
    return path


@contextmanager
def one_thread() -> Iterator[None]:
    """Sums are split over threads, so the number of threads decides the last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
