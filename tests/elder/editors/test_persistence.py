"""E15, E16, E18: states on disk, continued streams, editors beside one another, order and seeds."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from elder.adapter import load_adapter
from elder.adapter_files import load_manifest
from elder.base import Base, Editor
from elder.editors.make import make_editor
from elder.errors import AdapterError
from elder.state import pack_json, state_digest
from tests.double import trained_apart, worst
from tests.elder.tiny import EDITS, OPTIONS, OTHERS, logits_of, make_base, padded

PROMPTS = [*[e.prompt for e in EDITS], *OTHERS, EDITS[0].rephrases[0]]
VARIANTS = [
    ("elder", {}),
    ("elder", {"target": "mlp_in", "router_bias": False, "init": "standard", "terminator": "none"}),
    ("elder-plus", {}),
    ("elder-plus", {"subject_threshold": None, "answer_threshold": None, "key_width": 8}),
    ("elder-plus", {"parameters_per_edit": 10**6}),
    ("elder-plus", {"routing": "router"}),
    ("elder-plus", {"gate": "hamming", "epsilon": 4}),
    ("elder-plus", {"start": "prompt", "replay": 0, "prefixes": 0}),
]
NAMES = [
    "elder",
    "elder-switched",
    "plus",
    "plus-calibrated",
    "plus-growing",
    "plus-router",
    "plus-hamming",
    "plus-prompt",
]


@pytest.mark.parametrize(("method", "options"), VARIANTS, ids=NAMES)
def test_e15_a_loaded_editor_answers_bit_for_bit_and_continues_as_if_undisturbed(
    base: Base, method: str, options: dict[str, Any], tmp_path: Path
) -> None:
    options = {**OPTIONS[method], **options}
    undisturbed, first = make_editor(method, base, **options), make_editor(method, base, **options)
    undisturbed.edit(EDITS)
    first.edit(EDITS[:4])
    first.save(tmp_path / "adapter")
    second = load_adapter(tmp_path / "adapter", base)
    assert second.options == first.options
    assert state_digest(second.state_dict()) == state_digest(first.state_dict())
    assert load_manifest(tmp_path / "adapter")["state_digest"] == state_digest(second.state_dict())
    inputs = padded(base, PROMPTS)
    asked = inputs["input_ids"], inputs["attention_mask"]
    assert torch.equal(second.in_scope(*asked), first.in_scope(*asked))
    assert first.in_scope(*asked).any()
    assert torch.equal(logits_of(second.model, inputs), logits_of(first.model, inputs))
    assert not torch.equal(logits_of(second.model, inputs), logits_of(base.model, inputs))
    second.edit(EDITS[4:])
    assert state_digest(second.state_dict()) == state_digest(undisturbed.state_dict())
    assert torch.equal(logits_of(second.model, inputs), logits_of(undisturbed.model, inputs))


def test_e15_a_state_without_edits_can_be_saved_and_continued(
    fresh: Callable[..., Editor], base: Base, tmp_path: Path
) -> None:
    editor, undisturbed = fresh(), fresh()
    editor.save(tmp_path)
    loaded = load_adapter(tmp_path, base)
    loaded.edit(EDITS[:2])
    undisturbed.edit(EDITS[:2])
    assert state_digest(loaded.state_dict()) == state_digest(undisturbed.state_dict())


def test_e15_a_state_is_a_copy_and_loading_replaces_what_was_there(fresh: Callable[..., Any], base: Base) -> None:
    editor, other = fresh(), fresh(seed=7)
    editor.edit(EDITS[:2])
    state = editor.state_dict()
    digest = state_digest(state)
    editor.edit(EDITS[2:4])
    assert state_digest(state) == digest
    other.edit(EDITS[4:])
    other.load_state_dict(state)
    assert state_digest(other.state_dict()) == digest


def test_states_of_other_shapes_are_refused_by_name(fresh: Callable[..., Any], method: str) -> None:
    state = fresh().state_dict()
    with pytest.raises(AdapterError, match=r"'mixtures\.0\.0\.a' has shape"):
        fresh(rank=3).load_state_dict(state)
    with pytest.raises(AdapterError, match=r"'router\.weight' is missing"):
        fresh().load_state_dict({n: t for n, t in state.items() if n != "router.weight"})


DAMAGES: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "missing": (r"'(codes|known)' is missing; '.*' is missing", lambda s: [s.pop(n) for n in list(s)[-9:]]),
    "unknown": ("'extra' is unknown", lambda s: s.update(extra=torch.zeros(1))),
    "format": ("'codes' is float32, expected bool", lambda s: s.update(codes=s["codes"].float())),
    "shape": (r"'codes' has shape .* expected \(any, ", lambda s: s.update(codes=s["codes"][:, :1])),
    "text": ("'cursor' holds no JSON", lambda s: s.update(cursor=s["cursor"][:-1])),
    "cursor": ("'cursor' must count edits and batches", lambda s: s.update(cursor=pack_json({"edits": 1}))),
}
DAMAGES_PLUS: dict[str, tuple[str, Callable[[dict[str, Any]], Any]]] = {
    "lengths": ("'keys.answer' counts 1 edits, 'known' 2", lambda s: s.update({"keys.answer": s["keys.answer"][:1]})),
    "keys": ("'keys.subject' has 1$", lambda s: s.update({"keys.subject": s["keys.subject"][:1]})),
    "center": ("'keys.subject_center' has shape", lambda s: s.update({"keys.subject_center": torch.zeros(3)})),
    "ledger": ("tokens, there are 2$", lambda s: s.update({"ledger.tokens": s["ledger.tokens"][:2]})),
    "groups": ("groups that are not there", lambda s: s.update(group_of=s["group_of"] + 9)),
    "half a group": (r"'mixtures\.1\.0\.b' is missing", lambda s: s.update({"mixtures.1.0.a": s["mixtures.0.0.a"]})),
}


@pytest.mark.parametrize(
    ("kind", "damage"),
    [(k, d) for k in ("elder", "elder-plus") for d in DAMAGES] + [("elder-plus", d) for d in DAMAGES_PLUS],
)
def test_a_state_is_taken_over_as_a_whole_or_not_at_all(
    base_of: Callable[..., Base], edited_once: Callable[..., Any], kind: str, damage: str
) -> None:
    words, spoil = {**DAMAGES, **DAMAGES_PLUS}[damage]
    donor, editor = make_editor(kind, base_of("llama"), **OPTIONS[kind]), edited_once(kind, "llama")
    donor.edit(EDITS[4:])
    state, before = donor.state_dict(), state_digest(editor.state_dict())
    spoil(state)
    with pytest.raises(AdapterError, match=words):
        editor.load_state_dict(state)
    assert state_digest(editor.state_dict()) == before


def test_states_with_more_or_fewer_groups_are_taken_over(base: Base) -> None:
    options = {**OPTIONS["elder-plus"], "parameters_per_edit": 10**6}
    small, large = make_editor("elder-plus", base, **options), make_editor("elder-plus", base, **options)
    small.edit(EDITS[:2])
    large.edit(EDITS)
    states = [small.state_dict(), large.state_dict()]
    assert [len(small.groups), len(large.groups)] == [1, 3]
    small.load_state_dict(states[1])
    large.load_state_dict(states[0])
    assert [len(small.groups), len(large.groups)] == [3, 1]
    for editor, state in ((small, states[1]), (large, states[0])):
        assert state_digest(editor.state_dict()) == state_digest(state)
    assert [small.edits_applied, large.edits_applied] == [6, 2]
    plain = make_editor("elder", base, **OPTIONS["elder"])
    with pytest.raises(AdapterError, match="is unknown"):
        plain.load_state_dict(states[1])


def test_e16_editors_on_one_base_do_not_meet(base: Base, method: str, tmp_path: Path) -> None:
    inputs = padded(base, PROMPTS)
    untouched = logits_of(base.model, inputs)
    one = make_editor(method, base, **OPTIONS[method])
    other = make_editor("elder-plus" if method == "elder" else "elder", base)
    one.edit(EDITS[:2])
    assert torch.equal(logits_of(other.model, inputs), untouched)
    mine = logits_of(one.model, inputs)
    other.edit(EDITS[2:4])
    assert torch.equal(logits_of(one.model, inputs), mine)
    assert torch.equal(logits_of(base.model, inputs), untouched)
    alone = make_editor(method, make_base(base.source.removeprefix("tiny:")), **OPTIONS[method])
    alone.edit(EDITS[:4])
    one.edit(EDITS[2:4])
    assert state_digest(one.state_dict()) == state_digest(alone.state_dict())
    with one.disabled():
        assert not torch.equal(logits_of(other.model, inputs), untouched)
    hooks = [h for m in base.model.modules() for h in (*m._forward_hooks.values(), *m._forward_pre_hooks.values())]
    assert not [hook for hook in hooks if hook.__module__.startswith("elder")]


def test_e18_equal_seeds_give_equal_states_and_other_seeds_other_ones(fresh: Callable[..., Any]) -> None:
    digests = []
    for seed in (0, 0, 1):
        editor = fresh(seed=seed)
        torch.manual_seed(len(digests))  # randomness of the process plays no part
        editor.edit(EDITS[:4])
        digests.append(state_digest(editor.state_dict()))
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_e18_editing_leaves_the_random_state_of_the_process_alone(fresh: Callable[..., Any]) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    fresh().edit(EDITS[:2])
    assert torch.equal(torch.get_rng_state(), before)


def assert_close_maps(one: Any, other: Any, tolerance: float) -> None:
    for (name, p), q in zip(one.mixtures.named_parameters(), other.mixtures.parameters(), strict=True):
        assert float((p - q).abs().max()) < tolerance, name


def test_e18_the_order_inside_a_batch_changes_the_result_only_by_rounding(double: Base, family: str) -> None:
    """Allocations are drawn in the order of arrival, so they are known beforehand here."""
    editors = []
    for order in (EDITS[:4], EDITS[3::-1]):
        editor = make_editor("elder", double, **{**OPTIONS["elder"], "batch_size": 4})
        editor.allocator.allocate([edit.target for edit in EDITS[:4]])
        receipt = editor.edit(order)
        assert [o.edit_id for o in receipt.outcomes] == [e.id for e in order]
        editors.append((editor, {o.edit_id: o.final_loss for o in receipt.outcomes}, receipt.losses[0]))
    (one, losses, curve), (other, other_losses, other_curve) = editors
    apart = trained_apart(steps=8, lr=OPTIONS["elder"]["lr"], terms=12 * 40 + 128)
    assert losses == pytest.approx(other_losses, abs=apart)
    assert curve == pytest.approx(other_curve, abs=apart)
    assert_close_maps(one, other, apart)
    first, second = (editor.codes.state().flatten(1).tolist() for editor in (one, other))
    assert {tuple(c) for c in first} == {tuple(c) for c in second}


def test_micro_batches_change_results_only_by_rounding(double: Base, method: str) -> None:
    options = {**OPTIONS[method], "batch_size": 4}
    apart = trained_apart(steps=12, lr=options["lr"], terms=20 * 40 + 128)  # rows, their tokens, and a sum below them
    whole, parts = make_editor(method, double, **options), make_editor(method, double, **options, micro_batch=3)
    one, other = whole.edit(EDITS[:4]), parts.edit(EDITS[:4])
    assert one.losses[0] == pytest.approx(other.losses[0], abs=apart)
    assert [o.final_loss for o in one.outcomes] == pytest.approx([o.final_loss for o in other.outcomes], abs=apart)
    assert not worst(parts.state_dict(), whole.state_dict(), apart)
