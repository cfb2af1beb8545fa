"""An edited model as an object: copied, pickled, moved, saved, wrapped, described; and learning that fails."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from elder.base import Base
from elder.edit import Edit
from elder.editors.make import make_editor
from elder.editors.mixture import elder as elder_module
from elder.editors.mixture import elder_plus as plus_module
from elder.errors import ModelError
from elder.state import state_digest, weights_digest
from tests.elder.edited.talk import INSIDE, MIXED, OUTSIDE, Alone, inputs_of, said
from tests.elder.tiny import EDITS, METHODS, OPTIONS, OTHERS, logits_of, padded
from tests.methods import small

MORE = 5
WEIGHTS = ("rome", "memit", "ultraedit")


def editor_of(method: str, base: Base, **options: Any) -> Any:
    return make_editor(method, base, **{**small(method), **OPTIONS.get(method, {}), **options})


@pytest.fixture(scope="module")
def written(base_of: Callable[..., Base], tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Makes weight editors on a tiny Llama that have learnt two edits."""
    text = tmp_path_factory.mktemp("text") / "text.txt"
    text.write_text("\n".join([f"{e.prompt} {e.target}." for e in EDITS] + list(OTHERS)))

    def make(method: str) -> Any:
        own = {} if method == "ultraedit" else {"text": str(text)}
        editor = editor_of(method, base_of("llama"), **own)
        editor.edit(EDITS[:2])
        return editor

    return make


# ---- copies ----------------------------------------------------------------------------------------------------------


def twin_of(model: Any, how: str) -> Any:
    return copy.deepcopy(model) if how == "copied" else pickle.loads(pickle.dumps(model))


@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_a_copy_is_a_model_of_its_own(loud: Any, alone: Alone, how: str) -> None:
    """Two decodings by turns, one on each, and weights of its own."""
    twin, inputs = twin_of(loud.model, how), inputs_of(loud.base, MIXED)
    assert type(twin) is type(loud.model)
    assert torch.equal(logits_of(twin, inputs), logits_of(loud.model, inputs))
    assert said(twin, inputs, MORE) == alone.each(MIXED, MORE)
    own = {p.data_ptr() for p in loud.model.parameters()}
    assert not any(p.data_ptr() in own for p in twin.parameters())
    with twin.without_edits():
        assert said(loud.model, inputs, MORE) == alone.each(MIXED, MORE)
        assert torch.equal(logits_of(twin, inputs), logits_of(loud.base.model, inputs))
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert said(loud.model, inputs, MORE) == alone.each(MIXED, MORE)


@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_a_copy_does_not_learn_with_the_original(fresh: Callable[..., Any], how: str) -> None:
    editor = fresh()
    editor.edit(EDITS[:2])
    inputs = inputs_of(editor.base, MIXED)
    before, twin = logits_of(editor.model, inputs), twin_of(editor.model, how)
    editor.edit(EDITS[2:4])
    after = logits_of(editor.model, inputs)
    assert not torch.equal(after, before)
    del editor
    gc.collect()
    assert torch.equal(logits_of(twin, inputs), before)
    assert "2 edits" in repr(twin).splitlines()[0]


def test_a_cache_goes_from_a_model_to_its_copy(loud: Any, alone: Alone) -> None:
    """They answer with the same edits, so the copy goes on where the original stopped."""
    twin = copy.deepcopy(loud.model)
    for prompt in (INSIDE[0], OUTSIDE[0]):
        with torch.no_grad():
            out = loud.model(**inputs_of(loud.base, [prompt]), use_cache=True)
            answer = [out.logits[0, -1].argmax().item()]
            for _ in range(MORE - 1):
                ids = torch.tensor([answer[-1:]])
                answer.append(twin(input_ids=ids, past_key_values=out.past_key_values).logits[0, -1].argmax().item())
        assert answer == alone(prompt, MORE)


@pytest.mark.parametrize("how", ["copied", "pickled"])
@pytest.mark.parametrize("method", WEIGHTS)
def test_a_copy_of_changed_weights(written: Callable[[str], Any], method: str, how: str) -> None:
    editor = written(method)
    inputs = padded(editor.base, MIXED)
    before, twin = logits_of(editor.model, inputs), twin_of(editor.model, how)
    editor.edit(EDITS[2:4])
    assert not torch.equal(logits_of(editor.model, inputs), before)
    assert torch.equal(logits_of(twin, inputs), before)
    with editor.model.without_edits():
        assert torch.equal(logits_of(twin, inputs), before)
    with twin.without_edits():
        assert torch.equal(logits_of(twin, inputs), logits_of(editor.base.model, inputs))


# ---- moved, and set --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", ["half", "bfloat16", "double"])
def test_another_number_format_is_that_of_the_edited_model_only(
    edited_once: Callable[..., Any], method: str, family: str, change: str
) -> None:
    editor = make_editor(method, edited_once(method, family).base, **OPTIONS[method])
    editor.load_state_dict(edited_once(method, family).state_dict())
    base, inputs = editor.base, padded(editor.base, MIXED)
    digest, before, state = editor.base_digest(), logits_of(base.model, inputs), state_digest(editor.state_dict())
    mine = logits_of(editor.model, inputs)
    scope = editor.in_scope(inputs["input_ids"], inputs["attention_mask"])
    moved = {"half": lambda m: m.half(), "bfloat16": lambda m: m.to(torch.bfloat16), "double": lambda m: m.double()}
    assert moved[change](editor.model) is editor.model
    assert editor.base_digest() == digest == weights_digest(base.model, base.runtime)
    assert torch.equal(logits_of(base.model, inputs), before)
    assert state_digest(editor.state_dict()) == state
    assert all(p.dtype == torch.float32 for p in base.model.parameters())
    ours = logits_of(editor.model, inputs)
    assert ours.dtype == editor.model.dtype != torch.float32
    real = inputs["attention_mask"].bool()
    bound = 1e-3 if change == "double" else 0.05 if change == "half" else 0.4
    rows = ~scope if change == "bfloat16" else torch.ones_like(scope)  # coarse keys may miss a narrow gate
    torch.testing.assert_close(ours.float()[rows][real[rows]], mine[rows][real[rows]], atol=bound, rtol=bound)
    editor.model.float()
    torch.testing.assert_close(logits_of(editor.model, inputs)[real], mine[real], atol=bound, rtol=bound)


def test_train_and_eval_belong_to_the_edited_model(loud: Any, base: Base) -> None:
    inputs = padded(base, MIXED)
    wanted = logits_of(loud.model, inputs)
    try:
        assert loud.model.train() is loud.model
        assert loud.model.training
        assert not base.model.training
        assert torch.equal(logits_of(loud.model, inputs), wanted)
    finally:
        assert not loud.model.eval().training


def test_gradients_reach_the_embeddings_and_not_the_base(loud: Any, base: Base) -> None:
    inputs = padded(base, MIXED)
    embedded = loud.model.get_input_embeddings()(inputs.pop("input_ids")).detach().requires_grad_()
    loud.model(inputs_embeds=embedded, **inputs).logits.sum().backward()
    assert embedded.grad.abs().sum() > 0
    assert all(p.grad is None for p in base.model.parameters())


@pytest.mark.parametrize("reentrant", [False, True])
def test_blocks_that_are_computed_again_for_gradients_are_edited_again(loud: Any, reentrant: bool) -> None:
    inputs = padded(loud.base, MIXED)
    ids = inputs.pop("input_ids")
    grads = []
    for again in (False, True):
        model = copy.deepcopy(loud.model).train()
        if again:
            model.activation_checkpointing_enable({"use_reentrant": reentrant})
            copy.deepcopy(model)  # still possible
        embedded = model.get_input_embeddings()(ids).detach().requires_grad_()
        model(inputs_embeds=embedded, **inputs, use_cache=False).logits.pow(2).sum().backward()
        grads.append(embedded.grad)
    torch.testing.assert_close(*grads)
    assert grads[0].abs().max() > 0


# ---- weights ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*METHODS, *WEIGHTS])
def test_the_weights_are_the_bases_by_name(base_of: Callable[..., Base], method: str) -> None:
    editor = editor_of(method, base_of("llama"))
    base = editor.base.model
    assert list(editor.model.state_dict()) == list(base.state_dict())
    assert [n for n, _ in editor.model.named_parameters()] == [n for n, _ in base.named_parameters()]
    assert isinstance(editor.model, type(base))
    assert editor.model.num_parameters() == base.num_parameters()
    with pytest.raises(ModelError, match=r"elder.load_base.*editor.load_state_dict"):
        editor.model.load_state_dict(base.state_dict())


def test_mixtures_are_no_model_directory(loud: Any, tmp_path: Path) -> None:
    for given in ({}, {"state_dict": loud.model.state_dict()}):  # as trainers pass it
        with pytest.raises(ModelError, match=r"editor.save.*elder.load_edited.*elder export"):
            loud.model.save_pretrained(tmp_path / "here", **given)
    assert not (tmp_path / "here").exists()


@pytest.mark.parametrize("method", WEIGHTS)
def test_changed_weights_are_saved_as_a_plain_model(written: Callable[[str], Any], method: str, tmp_path: Path) -> None:
    editor = written(method)
    digest = editor.base_digest()
    editor.model.save_pretrained(tmp_path)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert type(plain).__module__.startswith("transformers.")
    inputs = padded(editor.base, [edit.prompt for edit in EDITS])
    ours, theirs = logits_of(editor.model, inputs), logits_of(editor.base.model, inputs)
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(logits_of(plain, inputs)[real], ours[real], atol=1e-4, rtol=1e-4)
    assert (ours - theirs)[real].abs().max() > 0.01
    assert editor.base_digest() == digest


# ---- what people see, and wrap ---------------------------------------------------------------------------------------


def test_a_model_says_what_it_is(edited_once: Callable[..., Any], fresh: Callable[..., Any], method: str) -> None:
    first, rest = repr(edited_once(method, "llama").model).split("\n", 1)
    assert first == f"Edited model: 4 edits, method {method}, on tiny:llama"
    assert rest.startswith("LlamaForCausalLM(")
    editor = fresh()
    assert ": 0 edits," in repr(editor.model)
    editor.edit(EDITS[:1])
    assert ": 1 edit, " in repr(editor.model)


def test_an_adapter_around_an_edited_model_answers_with_the_edits(loud: Any, alone: Alone) -> None:
    peft = pytest.importorskip("peft")
    names = [name for name, module in loud.model.named_modules() if name.endswith(("q_proj", "down_proj", "c_attn"))]
    config = peft.LoraConfig(r=2, target_modules=names, task_type="CAUSAL_LM", fan_in_fan_out="h.0" in names[0])
    wrapped = peft.get_peft_model(copy.deepcopy(loud.model), config).eval()
    inputs = inputs_of(loud.base, MIXED)
    assert said(wrapped, inputs, MORE) == alone.each(MIXED, MORE)
    assert torch.equal(logits_of(wrapped, inputs), logits_of(loud.model, inputs))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    ours, base = logits_of(wrapped, inputs), logits_of(loud.model, inputs)
    with wrapped.get_base_model().without_edits():
        theirs = logits_of(wrapped, inputs)
    outside = ~loud.in_scope(**inputs)
    assert not torch.equal(ours, base)
    assert not torch.equal(ours[~outside], theirs[~outside])
    assert torch.equal(loud.model.get_input_embeddings().weight, loud.base.model.get_input_embeddings().weight)


# ---- learning that fails ---------------------------------------------------------------------------------------------

FAILURES: dict[str, tuple[type[BaseException], int]] = {
    "memory, before a step": (torch.OutOfMemoryError, 0),
    "memory, in the middle": (torch.OutOfMemoryError, 3),
    "stopped by hand": (KeyboardInterrupt, 3),
}
CASES: dict[str, tuple[dict[str, Any], list[Edit]]] = {
    "new edits": ({}, list(EDITS[2:4])),
    "one that replaces": ({"batch_size": 2}, [Edit(EDITS[0].prompt, "Ob", subject="Arlo"), EDITS[3]]),
}


def failing(monkeypatch: pytest.MonkeyPatch, error: type[BaseException], steps: int) -> None:
    """Let training break off after so many steps, with everything that they changed."""

    def descend(parameters: Any, parts: Any, lr: float, wanted: int, runtime: Any, *rest: Any) -> Any:
        if steps:
            real(parameters, parts, lr, steps, runtime)
        raise error("in the middle of a batch")

    real = elder_module.descend
    for module in (elder_module, plus_module):
        monkeypatch.setattr(module, "descend", descend)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("failure", FAILURES)
def test_a_batch_that_fails_changes_nothing(
    fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, case: str, failure: str
) -> None:
    options, edits = CASES[case]
    editor, twin = fresh(**options), fresh(**options)
    for each in (editor, twin):
        each.edit(EDITS[:2])
    inputs = padded(editor.base, [*INSIDE, *OUTSIDE, EDITS[3].rephrases[0]])
    before, digest = logits_of(editor.model, inputs), state_digest(editor.state_dict())
    scope = editor.in_scope(inputs["input_ids"], inputs["attention_mask"])
    with monkeypatch.context() as broken:
        failing(broken, *FAILURES[failure])
        with pytest.raises(FAILURES[failure][0]):
            editor.edit(edits)
    assert state_digest(editor.state_dict()) == digest
    assert torch.equal(logits_of(editor.model, inputs), before)
    assert torch.equal(editor.in_scope(inputs["input_ids"], inputs["attention_mask"]), scope)
    assert editor.edits_applied == editor.model.edits.count == 2
    receipt, other = editor.edit(edits), twin.edit(edits)
    assert state_digest(editor.state_dict()) == state_digest(twin.state_dict())
    assert [o.note for o in receipt.outcomes] == [o.note for o in other.outcomes]
    assert torch.equal(logits_of(editor.model, inputs), logits_of(twin.model, inputs))


def test_a_batch_that_fails_in_a_new_group_leaves_no_group(
    base_of: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**OPTIONS["elder-plus"], "parameters_per_edit": 10**6}
    editor, twin = (make_editor("elder-plus", base_of("llama"), **options) for _ in range(2))
    for each in (editor, twin):
        each.edit(EDITS[:2])
    digest, groups, ledger = state_digest(editor.state_dict()), len(editor.groups), len(editor.ledger)
    with monkeypatch.context() as broken:
        failing(broken, torch.OutOfMemoryError, 2)
        with pytest.raises(torch.OutOfMemoryError):
            editor.edit(EDITS[2:4])
    assert (len(editor.groups), len(editor.ledger)) == (groups, ledger)
    assert state_digest(editor.state_dict()) == digest
    editor.edit(EDITS[2:4])
    twin.edit(EDITS[2:4])
    assert len(editor.groups) == groups + 1
    assert state_digest(editor.state_dict()) == state_digest(twin.state_dict())


def test_batches_before_the_one_that_fails_are_kept(fresh: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """All or nothing means a batch: what was complete before has been published."""
    editor, twin = fresh(), fresh()
    twin.edit(EDITS[:2])

    def stop(done: int, of: int, loss: float) -> None:
        if done == 2:
            failing(monkeypatch, torch.OutOfMemoryError, 1)

    with pytest.raises(torch.OutOfMemoryError):
        editor.edit(EDITS[:4], progress=stop)
    monkeypatch.undo()
    assert state_digest(editor.state_dict()) == state_digest(twin.state_dict())
    inputs = padded(editor.base, MIXED)
    assert torch.equal(logits_of(editor.model, inputs), logits_of(twin.model, inputs))
