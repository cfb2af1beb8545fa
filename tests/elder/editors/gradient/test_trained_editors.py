"""UltraEdit, MEND and MALMEN as editors, on tiny random models. Invariants 23, 30 and 31 among others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from elder.adapter import load_adapter
from elder.base import Base
from elder.edit import Edit
from elder.editors.gradient.factor_editor import FactorEditor
from elder.editors.gradient.ultraedit import UltraEditEditor
from elder.editors.make import make_editor
from elder.errors import AdapterError, ConfigError, ModelError, SolverError
from elder.models.load import wrap_base
from elder.registry import METHODS, editor_class, make_options
from elder.state import pack_json, state_digest, unpack_json
from tests.elder.tiny import EDITS, OTHERS, greedy, logits_of, on_ranks, padded
from tests.methods import small

KINDS = [method for method in METHODS if issubclass(editor_class(method), FactorEditor)]
Make = Callable[..., Any]


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def make(kind: str, base: Base, **options: Any) -> Any:
    return make_editor(kind, base, **{**small(kind, batch_size=2, modules="mlp_out"), **options})


def anonymous(edits: tuple[Edit, ...] = EDITS) -> list[Edit]:
    return [replace(edit, subject=None) for edit in edits]


@pytest.mark.parametrize("modules", ["mlp_out", "mlp_in"])
def test_targets_become_likelier_and_no_subject_is_needed(base: Base, kind: str, modules: str) -> None:
    editor = make(kind, base, modules=modules)
    receipt = editor.edit(anonymous())
    assert [o.edit_id for o in receipt.outcomes] == [edit.id for edit in anonymous()]
    assert all(after < before for before, after in receipt.losses)
    assert len(receipt.losses) == 3
    first = receipt.outcomes[:2]
    assert sum(o.details["loss_before"] for o in first) / 2 == pytest.approx(receipt.losses[0][0], rel=1e-5)
    assert sum(o.final_loss for o in first) / 2 == pytest.approx(receipt.losses[0][1], rel=1e-5)
    assert editor.edits_applied == 6
    assert 0 < receipt.notes["largest_change"] < 1


def test_31_switched_off_it_is_the_base_to_the_bit_and_the_base_is_untouched(base: Base, kind: str) -> None:
    digest, prompts = base.digest, padded(base, OTHERS)
    plain = logits_of(base.model, prompts)
    editor = make(kind, base)
    assert torch.equal(logits_of(editor.model, prompts), plain)
    editor.edit(EDITS[:4])
    assert not torch.equal(logits_of(editor.model, prompts), plain)
    with editor.disabled():
        assert torch.equal(logits_of(editor.model, prompts), plain)
    assert torch.equal(logits_of(base.model, prompts), plain)
    assert editor.base_digest() == digest
    assert all(p.grad is None and not p.requires_grad for p in base.model.parameters())


def test_a_saved_and_resumed_stream_is_the_undisturbed_one_to_the_bit(base: Base, kind: str, tmp_path: Any) -> None:
    straight, first = make(kind, base), make(kind, base)
    straight.edit(EDITS)
    first.edit(EDITS[:4])
    first.save(tmp_path)
    second = load_adapter(tmp_path, base)
    prompts = padded(base, OTHERS)
    assert torch.equal(logits_of(first.model, prompts), logits_of(second.model, prompts))
    second.edit(EDITS[4:])
    assert state_digest(second.state_dict()) == state_digest(straight.state_dict())
    assert torch.equal(logits_of(second.model, prompts), logits_of(straight.model, prompts))


def test_a_state_that_does_not_fit_is_refused_whole(base: Base, kind: str) -> None:
    editor, other = make(kind, base), make(kind, base)
    editor.edit(EDITS[:2])
    state, fresh = editor.state_dict(), state_digest(other.state_dict())
    cursor = unpack_json(state["cursor"])
    sizes = {**cursor["sizes"], "1.mlp_out": [-1]}

    def counting(**changed: Any) -> dict[str, Any]:
        return state | {"cursor": pack_json(cursor | changed)}

    damaged = [
        ({n: t for n, t in state.items() if n != "delta.1.mlp_out.left"}, r"'delta\.1\.mlp_out\.left' is missing"),
        (state | {"delta.1.mlp_out.left": state["delta.1.mlp_out.left"][:, :1]}, "does not add up"),
        (state | {"delta.1.mlp_out.right": state["delta.1.mlp_out.right"] * float("nan")}, "right' is not finite"),
        (state | {"cursor": state["cursor"][:-1]}, "holds no JSON"),
        (state | {"cursor": pack_json([1])}, "'cursor' must hold batches, edits"),
        (counting(edits="two"), "edits is 'two', no count"),
        (counting(batches=2, ends=[1, 2]), "the sizes of 1.mlp_out must be 2 counts"),
        (counting(sizes=None), "sizes must be those of 1.mlp_out, 3.mlp_out"),
        (counting(sizes=sizes), "the sizes of 1.mlp_out must be 1 counts"),
        (counting(ends=[3]), "ends must be the counts of edits after each batch"),
        (make(kind, base, layers=(1, 2)).state_dict(), "is unknown"),
    ]
    for one, message in damaged:
        with pytest.raises(AdapterError, match=message):
            other.load_state_dict(one)
        assert state_digest(other.state_dict()) == fresh


def test_statistics_that_do_not_fit_are_refused_whole(base: Base) -> None:
    editor, other = make("ultraedit", base), make("ultraedit", base)
    editor.edit(EDITS[:4])
    state, fresh = editor.state_dict(), state_digest(other.state_dict())
    name = next(n for n in state if n.endswith(".mean")).removesuffix(".mean")
    damaged = [
        ({n: t for n, t in state.items() if not n.startswith("statistics.")}, f"'{name}.mean' is missing"),
        (state | {f"{name}.mean": state[f"{name}.mean"][:1]}, "must have been noted after each of 2 batches"),
        (state | {f"{name}.count": state[f"{name}.count"].flip(0)}, "no statistics of a growing stream"),
        (state | {f"{name}.squares": -state[f"{name}.squares"]}, "no statistics of a growing stream"),
        (state | {f"{name}.mean": state[f"{name}.mean"][:, :5]}, "has shape"),
    ]
    for one, message in damaged:
        with pytest.raises(AdapterError, match=message):
            other.load_state_dict(one)
        assert state_digest(other.state_dict()) == fresh


def test_ranks_write_what_one_process_writes(base: Base, kind: str) -> None:
    def program(runtime: Any) -> Any:
        editor = make(kind, wrap_base(base.model, base.tokenizer, base.source, runtime), micro_batch=1, batch_size=3)
        receipt = editor.edit(EDITS)
        return editor.state_dict(), [o.final_loss for o in receipt.outcomes]

    alone, found = on_ranks(program, 1)[0], on_ranks(program, 2)
    for state, losses in found:
        assert state_digest(state) == state_digest(alone[0])  # batches are the same ones, whoever runs them
        assert losses == pytest.approx(alone[1], abs=1e-5)


def test_a_disabling_or_unsound_batch_is_refused_and_not_written(base: Base, kind: str) -> None:
    cases = ((1e-9, None, "times the weights"), (None, float("inf"), "update is not finite"), (None, 1e30, "finite"))
    for limit, size, message in cases:
        editor = make(kind, base, max_change=limit)
        before, found = state_digest(editor.state_dict()), editor._changes
        if size is not None:  # what a network that has diverged may say; 1e30 times 1e30 overflows when it is written

            def diverged(factors: Any, found: Any = found, size: float = size) -> Any:
                return {n: (left.sign() * size, right.sign() * size) for n, (left, right) in found(factors).items()}

            editor._changes = diverged
        with pytest.raises(SolverError, match="nothing of this batch was written") as refused:
            editor.edit(EDITS[:2])
        assert message in str(refused.value)
        assert state_digest(editor.state_dict()) == before
        assert torch.equal(logits_of(editor.model, padded(base, OTHERS)), logits_of(base.model, padded(base, OTHERS)))


def test_30_the_scale_of_the_loss_and_the_order_in_a_turn_make_no_difference_to_ultraedit(base: Base) -> None:
    prompts = padded(base, OTHERS)

    def logits(edits: Any, **options: Any) -> torch.Tensor:
        editor = make("ultraedit", base, batch_size=3, **options)
        editor.edit(edits[:3])
        editor.edit(edits[3:])
        return logits_of(editor.model, prompts)

    wanted = logits(EDITS, loss="sum")
    other = logits((EDITS[2], EDITS[0], EDITS[1], EDITS[5], EDITS[4], EDITS[3]), loss="sum")
    torch.testing.assert_close(other, wanted, rtol=1e-3, atol=1e-4)
    same = [replace(e, target=e.target[:2]) for e in EDITS]  # answers of one length: `edit` is `sum` times 1/2
    torch.testing.assert_close(logits(same, loss="edit"), logits(same, loss="sum"), rtol=1e-3, atol=1e-4)


def test_23_statistics_do_not_depend_on_turns_and_hold_the_present_one(base: Base) -> None:
    """With a rate of next to nothing the model stays, so every partition reads the same factors."""
    found = []
    for size in (1, 2, 6):
        editor = make("ultraedit", base, batch_size=size, lr=1e-30)
        assert isinstance(editor, UltraEditEditor)
        editor.edit(EDITS)
        found.append(next(iter(editor.statistics.values())))
    tokens = sum(len(edit.target) + 1 for edit in EDITS)  # one byte is one token, the space before it too
    for moments in found:
        assert moments.count == 2 * tokens  # two maps of one shape
        torch.testing.assert_close(moments.mean, found[0].mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(moments.variance(), found[0].variance(), rtol=1e-3, atol=1e-6)


def test_many_tokens_take_no_more_room_than_the_matrix(base: Base) -> None:
    editor = make("mend", base, batch_size=6)
    editor.edit([replace(e, target=e.target * 20) for e in EDITS])
    for name, delta in editor.deltas.of.items():
        assert delta.sizes == [min(editor.sizes[name])]
        torch.testing.assert_close(delta.left @ delta.right, delta.dense, rtol=1e-4, atol=1e-6)


def test_32_mend_untrained_is_a_step_of_gradient_descent(base: Base, family: str) -> None:
    from tests.elder.hyper.test_factors import autograd, rows_of

    editor = make("mend", base, lr=0.25, batch_size=1)
    editor.edit(EDITS[:1])
    for name, gradient in autograd(base, family, rows_of(base, 1), "mlp_out").items():
        torch.testing.assert_close(
            editor.deltas.of[name].dense, -0.25 * gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max())
        )


def test_rephrases_are_read_when_asked_for(base: Base) -> None:
    plain, more = (make("ultraedit", base, rephrases=r) for r in (False, True))
    plain.edit(EDITS[:2])
    more.edit(EDITS[:2])
    counts = [next(iter(e.statistics.values())).count for e in (plain, more)]
    assert counts[1] == 2 * counts[0]


def test_bad_input_is_named(base: Base, kind: str) -> None:
    with pytest.raises(ModelError, match="there is no block 9"):
        make(kind, base, layers=(9,))
    with pytest.raises(ConfigError, match="no edits to apply"):
        make(kind, base).edit([])
    with pytest.raises(ConfigError) as caught:
        make_options(kind, {"lr": 0, "batch_size": 0, "layers": [2, 1], "max_change": -1})
    assert len(caught.value.problems) == 4


def test_generation_uses_the_changes(base: Base, kind: str) -> None:
    editor = make(kind, base)
    editor.edit(EDITS[:4])
    ids = base.tokenizer(EDITS[0].prompt, return_tensors="pt")
    found = editor.model.generate(**ids, max_new_tokens=3, do_sample=False)
    assert found[0].tolist() == greedy(editor.model, ids["input_ids"][0].tolist(), 3)
