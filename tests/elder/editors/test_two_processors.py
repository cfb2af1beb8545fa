"""Ranks on processors that round otherwise hold the same state to the bit: what all could work out, one tells."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from elder.base import Base
from elder.edit import Probe
from elder.editors.make import make_editor
from elder.errors import SolverError
from elder.hyper.trainer import make_trainer
from elder.models.load import wrap_base
from elder.registry import METHODS, make_training
from elder.state import state_digest
from elder.targets.contexts import sample_contexts
from tests.elder.tiny import EDITS, ThreadRuntime, make_base, make_model, make_tokenizer, on_ranks
from tests.methods import small

TEXT = "\n".join(f"{edit.prompt} {edit.target}. {rephrase}" for edit in EDITS for rephrase in edit.rephrases)
SMALL: dict[str, Any] = {
    "steps": 4, "extra_steps": 1, "decay": 0.0, "jitter": 0.5, "threshold": 2.0, "batch_size": 2, "experts": 6,
    "parameters_per_edit": 0, "subject_threshold": None, "answer_threshold": None,
}  # fmt: skip
"""Taken for every option of such a name."""
# Results of more than one rounding, which processors do in different orders or fuse.
ROUNDED = {
    "mm", "bmm", "addmm", "sum", "mean", "exp", "rsqrt", "linalg_vector_norm", "lerp_", "addcdiv_",
    "linalg_cholesky_ex", "cholesky_solve", "linalg_solve_triangular", "_linalg_eigh", "cholesky_inverse",
}  # fmt: skip


class OtherProcessor(TorchDispatchMode):
    """In this thread, results of operations with several roundings are off by one step of their number format."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ROUNDED:
            for tensor in out if isinstance(out, tuple) else (out,):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    tensor.mul_(1 + torch.finfo(tensor.dtype).eps)
        return out


def on_two_processors(program: Any) -> list[Any]:
    def main(runtime: ThreadRuntime) -> Any:
        with OtherProcessor() if runtime.rank else nullcontext():
            return program(runtime)

    return on_ranks(main, 2)


@pytest.fixture(scope="module")
def base() -> Base:
    return make_base("llama")


@pytest.mark.parametrize("method", METHODS)
def test_states_are_equal_to_the_bit(base: Base, method: str, tmp_path: Any) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 4)

    def program(runtime: ThreadRuntime) -> Any:
        own = wrap_base(base.model, base.tokenizer, base.source, runtime)
        editor: Any = make_editor(method, own, **small(method, **SMALL, text=str(tmp_path / "text.txt")))
        editor.edit(EDITS[:3])
        editor.edit(EDITS[3:5])
        return editor.state_dict()

    first, other = on_two_processors(program)
    different = [name for name in first if not torch.equal(first[name], other[name])]
    assert not different
    assert state_digest(first) == state_digest(other)


@pytest.mark.parametrize("method", ["mend", "malmen"])
def test_networks_in_training_are_equal_to_the_bit(base: Base, method: str) -> None:
    facts = [replace(edit, locality=(Probe("Water boils when", "hot"),)) for edit in EDITS[:3]]

    def program(runtime: ThreadRuntime) -> Any:
        own = wrap_base(base.model, base.tokenizer, base.source, runtime)
        trainer = make_trainer(method, own, make_training(method, {"rank": 4, "chunk": 4, "accumulate": 2}))
        digests = []
        for _ in range(3):
            trainer.step(facts)
            digests.append(state_digest(trainer.state_dict()))
        return digests

    first, other = on_two_processors(program)
    assert first == other
    assert len(set(first)) == 3


def test_the_other_processor_is_another_one(base: Base) -> None:
    """Without this all above would say nothing."""
    ids = base.tokenizer("Water boils when", return_tensors="pt")["input_ids"]
    first, other = on_two_processors(lambda _: base.model(input_ids=ids).logits.detach())
    assert not torch.equal(first, other)
    torch.testing.assert_close(first, other, rtol=1e-4, atol=1e-4)


def test_contexts_are_those_that_rank_0_draws() -> None:
    """Rank 1 has a model of its own, which would write other texts."""

    def program(runtime: ThreadRuntime) -> Any:
        return sample_contexts(make_model("llama", seed=runtime.rank), make_tokenizer(), runtime, seed=3)

    first, other = on_ranks(program, 2)
    alone = sample_contexts(make_model("llama", seed=1), make_tokenizer(), ThreadRuntime(0, 1, {}), seed=3)
    assert first == other != alone


def test_an_update_that_one_rank_alone_refuses_is_written_or_refused_by_all(base: Base, tmp_path: Any) -> None:
    """Of a limit that ranks meet on different sides: rank 0 decides, and nobody waits for the others."""
    (tmp_path / "text.txt").write_text(TEXT * 4)

    def program(limits: tuple[float | None, float | None], runtime: ThreadRuntime) -> str:
        own = wrap_base(base.model, base.tokenizer, base.source, runtime)
        options = {**SMALL, "max_change": limits[runtime.rank], "text": str(tmp_path / "text.txt")}
        editor = make_editor("memit", own, **small("memit", **options))
        try:
            editor.edit(EDITS[:2])
        except SolverError as error:
            return str(error)
        return state_digest(editor.state_dict())

    refused, also = on_ranks(lambda runtime: program((1e-9, None), runtime), 2)
    assert "editor.max_change" in refused
    assert also == refused
    written, too = on_ranks(lambda runtime: program((None, 1e-9), runtime), 2)
    assert written == too != refused
