"""No rank is ever alone with a collective, whatever rows it is dealt: every method under shards that are strict."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from elder.base import Base
from elder.edit import Edit, Probe
from elder.editors.make import make_editor
from elder.hyper.trainer import make_trainer
from elder.metrics.evaluator import Evaluator
from elder.models.load import wrap_base
from elder.registry import METHODS, make_training
from elder.state import state_digest
from tests.elder.strict import Parted, StrictRuntime, on_strict_ranks
from tests.elder.tiny import EDITS, make_base
from tests.methods import small

TEXT = "\n".join(f"{edit.prompt} {edit.target}. {rephrase}" for edit in EDITS for rephrase in edit.rephrases)
SMALL: dict[str, Any] = {
    "steps": 2, "extra_steps": 1, "decay": 0.0, "jitter": 0.5, "contexts": 0, "value_batch": 1, "micro_batch": 1,
    "threshold": 2.0, "batch_size": 10, "experts": 6, "parameters_per_edit": 0,
}  # fmt: skip
"""Taken for every option of such a name: one row in a pass, so that ranks with more rows make more passes."""
# Subjects of one token with nothing in front (there is no BOS), and such with a head; long rows and short ones.
MIXED = (
    Edit("A lies by", "B", subject="A"),
    replace(EDITS[1], locality=(Probe("Water", "x"),)),
    replace(EDITS[0], rephrases=(), locality=(Probe("Nobody knew where the sea and the long river meet"),)),
    Edit("Cossit looks", "reddish", subject="Cossit", locality=(Probe("Z"),)),
    Edit("E", "Q", subject="E"),
)


@pytest.fixture(scope="module")
def bare() -> Base:
    """GPT-2, whose texts begin without BOS."""
    return make_base("gpt2")


def edit_and_measure(runtime: StrictRuntime, bare: Base, method: str, edits: tuple[Edit, ...], text: str) -> Any:
    base = wrap_base(bare.model, bare.tokenizer, bare.source, runtime)
    editor: Any = make_editor(method, base, **small(method, **SMALL, text=text))
    editor.edit(edits[:1])
    editor.edit(edits[1:] or edits)
    parts = ("reliability", "generalization", "locality", "scope", "fluency", "perplexity")
    Evaluator(editor, max_new_tokens=3, batch_size=2, perplexity_text="One two three four").measure(edits, parts)
    editor.base_digest()
    return runtime.done, state_digest(editor.state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_ranks_stay_in_step(bare: Base, method: str, tmp_path: Any) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 4)
    text = str(tmp_path / "text.txt")
    ranks = on_strict_ranks(lambda runtime: edit_and_measure(runtime, bare, method, MIXED, text), 2)
    assert len({digest for _, digest in ranks}) == 1
    assert all(done == ranks[0][0] for done, _ in ranks)
    assert {"forward", "block 1"} < set(ranks[0][0])


@pytest.mark.parametrize("method", ["memit", "elder-plus", "ultraedit"])
def test_a_rank_without_any_row_stays_in_step(bare: Base, method: str, tmp_path: Any) -> None:
    (tmp_path / "text.txt").write_text(TEXT * 4)
    text = str(tmp_path / "text.txt")
    ranks = on_strict_ranks(lambda runtime: edit_and_measure(runtime, bare, method, MIXED[:1], text), 3)
    assert len({digest for _, digest in ranks}) == 1


@pytest.mark.parametrize("method", ["mend", "malmen"])
def test_ranks_stay_in_step_while_a_network_is_trained(bare: Base, method: str) -> None:
    told = {"rephrases": ("Who then? It is", "A rather long way of asking the same: it is"), "locality": (Probe("Z"),)}
    facts = [replace(edit, **told) for edit in EDITS[:3]]

    def program(runtime: StrictRuntime) -> Any:
        base = wrap_base(bare.model, bare.tokenizer, bare.source, runtime)
        trainer = make_trainer(method, base, make_training(method, {"rank": 4, "micro_batch": 1, "chunk": 4}))
        trainer.step(facts)
        trainer.step(facts[:1])
        trainer.validate(facts, 2)
        return runtime.done, state_digest(trainer.state_dict())

    ranks = on_strict_ranks(program, 3)
    assert len({digest for _, digest in ranks}) == 1
    assert any(name.startswith("backward") for name in ranks[0][0])


def test_strict_ranks_notice_one_forward_too_many(bare: Base) -> None:
    """Without this all above would say nothing."""

    def program(runtime: StrictRuntime) -> Any:
        editor = make_editor("elder", wrap_base(bare.model, bare.tokenizer, bare.source, runtime), **small("elder"))
        for _ in range(1 + runtime.rank):
            editor.model(**bare.tokenizer("One two", return_tensors="pt"))
        return runtime.gather_objects("done")

    with pytest.raises(Parted):
        on_strict_ranks(program, 2)
