"""Plain fine-tuning: against autograd on the plain model, its bounds, its order, and two ranks against one process."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM

from elder.base import Base
from elder.editors.baselines import fine_tuning
from elder.editors.make import make_editor
from elder.editors.weights.rollback import rolled_back
from elder.errors import AdapterError, ConfigError, SolverError
from elder.models.anatomy import anatomy
from elder.models.load import wrap_base
from elder.state import pack_json, state_digest
from elder.tokens import encode_prompt, encode_target
from tests.elder.strict import on_strict_ranks
from tests.elder.tiny import EDITS, OTHERS, ThreadRuntime, logits_of, make_base, on_ranks, padded
from tests.methods import having, small

METHODS = having("step_edits")


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def base(request: pytest.FixtureRequest) -> Base:
    return make_base(request.param)


def plain_losses(model: Any, base: Base, edits: Any) -> Tensor:
    """(E,) mean cross-entropy of each answer, its end token included."""
    found = []
    for edit in edits:
        head = encode_prompt(base.tokenizer, edit.prompt)
        tail = [*encode_target(base.tokenizer, edit.prompt, edit.target), 1]
        logits = model(input_ids=torch.tensor([head + tail]), use_cache=False).logits[0, len(head) - 1 : -1]
        found.append(F.cross_entropy(logits, torch.tensor(tail)))
    return torch.stack(found)


def trained_plainly(base: Base, lr: float, epochs: int, bound: float | None) -> tuple[Any, list[float]]:
    """The model after so many steps of Adam on all edits, in block 2's map, and the loss before each."""
    model = copy.deepcopy(base.model)
    weight = anatomy(model).mlp_out[2].weight.requires_grad_(True)
    before, curve = weight.detach().clone(), []
    optimizer = torch.optim.Adam([weight], lr=lr)
    for _ in range(epochs):
        optimizer.zero_grad()
        loss = plain_losses(model, base, EDITS).mean()
        loss.backward()
        optimizer.step()
        curve.append(float(loss))
        if bound is not None:
            with torch.no_grad():
                weight.clamp_(before - bound, before + bound)
    return model, curve


@pytest.mark.parametrize(("method", "bound"), [("ft", None), ("ft-l", 4e-3)])
def test_a_batch_is_adam_on_the_plain_model(base: Base, method: str, bound: float | None) -> None:
    """The map as a weight of the model, no change beside it; rows one by one, not in batches."""
    options: dict[str, Any] = {"layers": (2,), "lr": 2e-3, "epochs": 5, "step_edits": 6, "batch_size": 6}
    editor = make_editor(method, base, **options, **({} if bound is None else {"bound": bound}))
    receipt = editor.edit(EDITS)
    model, curve = trained_plainly(base, 2e-3, 5, bound)
    assert list(receipt.losses[0]) == pytest.approx(curve, rel=1e-4)
    inputs = padded(base, [*(edit.prompt for edit in EDITS), *OTHERS])
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(
        logits_of(editor.model, inputs)[real], logits_of(model, inputs)[real], rtol=1e-3, atol=2e-3
    )
    largest = receipt.notes["largest_shift"]
    assert largest == pytest.approx(4e-3, rel=1e-5) if bound else largest > 5e-3
    after = plain_losses(model, base, EDITS).tolist()
    assert [outcome.final_loss for outcome in receipt.outcomes] == pytest.approx(after, rel=1e-3)


def test_a_stream_may_move_a_weight_by_a_bound_in_each_batch(base: Base) -> None:
    editor = make_editor("ft-l", base, layers=(2,), lr=1e-2, epochs=4, bound=1e-3)
    assert editor.edit(EDITS[:1]).notes["largest_shift"] == pytest.approx(1e-3, rel=1e-4)
    assert 1e-3 < editor.edit(EDITS[1:3]).notes["largest_shift"] <= 3e-3 + 1e-8


def test_a_lora_changes_a_map_by_no_more_than_its_rank(base: Base) -> None:
    editor: Any = make_editor("lora", base, **small("lora", rank=2, alpha=6.0))
    editor.edit(EDITS)
    state = editor.state_dict()
    for name, delta in editor.deltas.of.items():
        assert int(torch.linalg.matrix_rank(delta.dense, rtol=1e-4)) == 2
        product = 3 * state[f"lora.{name}.b"] @ state[f"lora.{name}.a"]
        torch.testing.assert_close(delta.dense, product)


def test_edits_are_gone_through_breadth_first_each_time_in_a_new_order(
    base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, ...]] = []

    def noted(rows: Any, *rest: Any) -> Any:
        seen.append(tuple(sorted({row.owner for row in rows})))
        return deal(rows, *rest)

    deal = fine_tuning.deal
    monkeypatch.setattr(fine_tuning, "deal", noted)
    make_editor("ft", base, layers=(2,), epochs=3, step_edits=1, lr=1e-4, rephrases=True).edit(EDITS)
    epochs = [seen[begin : begin + 6] for begin in range(0, 18, 6)]
    assert len(seen) == 18
    assert all(sorted(epoch) == [(i,) for i in range(6)] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 3


def test_what_is_learnt_is_left_alone(base: Base) -> None:
    editor = make_editor("ft", base, layers=(2,), epochs=200, lr=1e-2, stop=0.5)
    curve = editor.edit(EDITS[:2]).losses[0]
    assert len(curve) < 200
    assert curve[-1] < 0.5 <= min(curve[:-1])
    before = state_digest({"w": editor.state_dict()["weights.2.mlp_out"]})
    assert len(editor.edit(EDITS[:2]).losses[0]) == 1
    assert state_digest({"w": editor.state_dict()["weights.2.mlp_out"]}) == before


def test_a_batch_without_a_sound_loss_counts_for_nothing(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = make_editor("ft", base, layers=(2,), epochs=3, lr=1e-2)
    editor.edit(EDITS[:2])
    before, inputs = state_digest(editor.state_dict()), padded(base, [edit.prompt for edit in EDITS])
    now, sound = logits_of(editor.model, inputs), fine_tuning.answer_losses
    with monkeypatch.context() as patch:
        patch.setattr(fine_tuning, "answer_losses", lambda *given: sound(*given) * float("inf"))
        with pytest.raises(SolverError, match="no longer finite"):
            editor.edit(EDITS[2:])
    assert editor.edits_applied == 2
    assert torch.equal(logits_of(editor.model, inputs), now)
    assert state_digest(editor.state_dict()) == before


@pytest.mark.parametrize("ranks", [on_ranks, on_strict_ranks], ids=["whole", "sharded"])
@pytest.mark.parametrize("method", METHODS)
def test_two_ranks_train_what_one_process_trains(method: str, ranks: Any) -> None:
    base = make_base("llama")

    def program(runtime: ThreadRuntime) -> Any:
        own = wrap_base(base.model, base.tokenizer, base.source, runtime)
        editor = make_editor(method, own, **small(method, micro_batch=1, lr=1e-3))
        editor.edit(EDITS)
        return editor.state_dict()

    alone = make_editor(method, base, **small(method, micro_batch=1, lr=1e-3))
    alone.edit(EDITS)
    first, other = ranks(program, 2)
    assert state_digest(first) == state_digest(other)
    for name, value in alone.state_dict().items():
        torch.testing.assert_close(first[name], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_saved_with_its_changes(method: str, tmp_path: Any) -> None:
    editor = make_editor(method, make_base("gpt2"), **small(method))
    editor.edit(EDITS)
    editor.model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    inputs = padded(editor.base, [edit.prompt for edit in EDITS])
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(
        logits_of(plain, inputs)[real], logits_of(editor.model, inputs)[real], rtol=1e-4, atol=1e-4
    )


def test_earlier_batches_are_not_kept_and_damaged_states_are_refused(base: Base) -> None:
    editor: Any = make_editor("ft", base, **small("ft"))
    editor.edit(EDITS)
    with pytest.raises(ConfigError, match="keeps no earlier states"):
        rolled_back(editor, 3)
    state = editor.state_dict()
    for wrong in ({"edits": -1, "batches": 1}, {"edits": 6}, [6, 2]):
        with pytest.raises(AdapterError, match="must count edits and batches"):
            make_editor("ft", base, **small("ft")).load_state_dict({**state, "cursor": pack_json(wrong)})
    with pytest.raises(AdapterError, match=r"weights\.2\.mlp_out"):
        make_editor("ft", base, **small("ft", layers=(1,))).load_state_dict(state)
