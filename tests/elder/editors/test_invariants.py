"""E1-E3, E6, E8-E10, E12 for both methods on a tiny Llama and a tiny GPT-2."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from elder.base import Base, Editor
from elder.editors.make import make_editor
from elder.mixture.cached import record_of
from elder.mixture.route import Routes, Span, plan_of
from tests.elder.tiny import EDITS, INNER, OPTIONS, OTHERS, WIDTH, logits_of, padded, padded_right, real_rows

DTYPES = [torch.float32, torch.bfloat16]
LEARNT = [e.prompt for e in EDITS[:4]]
MIXED = [LEARNT[0], OTHERS[0], LEARNT[1], *OTHERS[3:], LEARNT[3], EDITS[5].prompt]
NEW_TOKENS = 6


def scope_of(editor: Editor, inputs: dict[str, Tensor]) -> Tensor:
    return editor.in_scope(inputs["input_ids"], inputs["attention_mask"])


@torch.no_grad()
def routes_of(editor: Any, inputs: dict[str, Tensor]) -> Routes:
    """What one pass over the inputs decided about its rows, as it left it in the cache."""
    record = record_of(editor.model(**inputs, use_cache=True).past_key_values, editor.edits.identity)
    assert record is not None
    return record.routes


def gates_by_row(routes: Routes) -> list[Tensor | None]:
    """The gates of each row, (L, N), or None where the row is out of scope."""
    return [gates if inside else None for inside, gates in zip(routes.inside, routes.gates, strict=True)]


def with_options(editor: Any, **options: Any) -> Editor:
    """Another editor that has learnt the same, with some options changed."""
    twin = make_editor(editor.method, editor.base, **{**OPTIONS[editor.method], **options})
    twin.load_state_dict(editor.state_dict())
    return twin


def assert_same_gates(one: list[Tensor | None], other: list[Tensor | None]) -> None:
    assert [g is None for g in one] == [g is None for g in other]
    for a, b in zip(one, other, strict=True):
        if a is not None:
            torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-3)


# ---- E1, E2, E3: the base model shows through -----------------------------------------------------------------------


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_e01_without_edits_the_model_is_the_base_bit_for_bit(
    base_of: Callable[..., Base], method: str, family: str, dtype: torch.dtype, training: bool
) -> None:
    base = base_of(family, dtype)
    editor = make_editor(method, base, **OPTIONS[method])
    inputs = padded(base, MIXED)
    editor.model.train(training)
    assert torch.equal(logits_of(editor.model, inputs), logits_of(base.model, inputs))
    assert not scope_of(editor, inputs).any()
    wanted = base.model.generate(**inputs, max_new_tokens=4, do_sample=False)
    assert torch.equal(editor.model.generate(**inputs, max_new_tokens=4, do_sample=False), wanted)


def test_e01_without_edits_no_threshold_lets_anything_in(fresh: Callable[..., Editor], base: Base, method: str) -> None:
    wide = {"epsilon": 10**6} if method == "elder" else {"subject_threshold": -1.0, "answer_threshold": -1.0}
    editor = fresh(**wide)
    inputs = padded(base, MIXED)
    assert not scope_of(editor, inputs).any()
    assert torch.equal(logits_of(editor.model, inputs), logits_of(base.model, inputs))


@pytest.mark.parametrize("rows", [None, [0, 2]])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_e02_fresh_maps_in_full_use_leave_the_base_bit_for_bit(
    base_of: Callable[..., Base], method: str, family: str, dtype: torch.dtype, rows: list[int] | None
) -> None:
    base = base_of(family, dtype)
    editor = make_editor(method, base, **OPTIONS[method])
    inputs = padded(base, MIXED)
    count, width = inputs["input_ids"].shape
    nowhere = Routes.none(count, len(editor.layers), editor.options.experts, torch.device("cpu"))
    inside = torch.tensor([rows is None or row in rows for row in range(count)])
    routes = dataclasses.replace(nowhere, inside=inside, gates=torch.rand_like(nowhere.gates))
    spans = [Span(row * width, width, 3 if method == "elder-plus" else 0) for row in range(count)]
    with editor.imposing(plan_of(routes, spans, count * width)):
        assert torch.equal(logits_of(editor.model, inputs), logits_of(base.model, inputs))
        torch.nn.init.ones_(editor.mixtures[0].b)
        assert not torch.equal(logits_of(editor.model, inputs), logits_of(base.model, inputs))


def test_e03_only_maps_and_routers_are_trained_and_the_base_keeps_its_bytes(
    fresh: Callable[..., Editor], base: Base, method: str
) -> None:
    editor = fresh()
    digest, inputs = editor.base_digest(), padded(base, MIXED)
    before, state = logits_of(base.model, inputs), editor.state_dict()
    own = {id(p) for p in editor.trainable()}
    assert all(p.requires_grad for p in editor.trainable())
    assert not any(p.requires_grad for p in base.model.parameters())
    for (name, p), (other, q) in zip(editor.model.named_parameters(), base.model.named_parameters(), strict=True):
        assert name == other
        assert p is q
        assert id(p) not in own
    editor.edit(EDITS[:3])
    assert editor.base_digest() == digest
    assert torch.equal(logits_of(base.model, inputs), before)
    after = editor.state_dict()
    trained = [n for n in state if n.startswith("mixtures.")]
    assert all(not torch.equal(state[n], after[n]) for n in trained)
    assert torch.equal(state["router.weight"], after["router.weight"]) == (method == "elder-plus")
    assert all(p.grad is None for p in [*editor.trainable(), *base.model.parameters()])


def test_e03_the_frozen_base_is_frozen_in_bfloat16_too(base_of: Callable[..., Base], method: str, family: str) -> None:
    base = base_of(family, torch.bfloat16)
    editor = make_editor(method, base, **OPTIONS[method])
    digest = editor.base_digest()
    receipt = editor.edit(EDITS[:2])
    assert editor.base_digest() == digest
    assert all(p.dtype == torch.float32 for p in editor.trainable())
    assert receipt.losses[0][-1] < receipt.losses[0][0]


# ---- E6: routing depends on the prompt alone ------------------------------------------------------------------------


def test_e06_routes_ignore_padding(edited: Any, base: Base) -> None:
    plain = gates_by_row(routes_of(edited, padded(base, MIXED)))
    assert {g is None for g in plain} == {True, False}
    assert_same_gates(gates_by_row(routes_of(edited, padded(base, MIXED, extra=7))), plain)
    assert_same_gates(gates_by_row(routes_of(edited, padded_right(base, MIXED))), plain)


def test_e06_routes_ignore_the_rest_of_the_batch(edited: Any, base: Base) -> None:
    together = gates_by_row(routes_of(edited, padded(base, MIXED)))
    for prompt, gates in zip(MIXED, together, strict=True):
        assert_same_gates(gates_by_row(routes_of(edited, padded(base, [prompt]))), [gates])


def test_e06_routes_ignore_what_stands_behind_the_prompt(edited: Any, base: Base) -> None:
    plain = gates_by_row(routes_of(edited, padded(base, MIXED)))
    longer = padded(base, [f"{p} and so on" for p in MIXED])
    with edited.routed_at(torch.tensor([longer["input_ids"].shape[1] - 1 - len(" and so on")] * len(MIXED))):
        assert_same_gates(gates_by_row(routes_of(edited, longer)), plain)


def test_e06_routes_ignore_the_maps(fresh: Callable[..., Any], base: Base) -> None:
    editor = fresh()
    editor.edit(EDITS[:4])
    inputs = padded(base, MIXED)
    plain = gates_by_row(routes_of(editor, inputs))
    before = logits_of(editor.model, inputs)
    with torch.no_grad():
        for mixture in editor.edits.version.groups[0]:
            mixture.a.mul_(-3)
            mixture.b.add_(1)
    assert not torch.equal(logits_of(editor.model, inputs), before)
    assert_same_gates(gates_by_row(routes_of(editor, inputs)), plain)


def test_in_scope_says_what_a_pass_does(edited: Any, base: Base) -> None:
    for inputs in (padded(base, MIXED), padded_right(base, MIXED)):
        inside = scope_of(edited, inputs)
        active = [g is not None for g in gates_by_row(routes_of(edited, inputs))]
        assert inside.tolist() == active
        changed = [
            not torch.equal(a, b)
            for a, b in zip(
                real_rows(inputs, logits_of(edited.model, inputs)),
                real_rows(inputs, logits_of(edited.base.model, inputs)),
                strict=True,
            )
        ]
        assert inside.tolist() == changed
    with edited.disabled():
        assert not scope_of(edited, inputs).any()


# ---- E8: the scope ---------------------------------------------------------------------------------------------------


def test_e08_the_scope_only_grows_with_epsilon_and_zero_lets_nothing_in(
    edited_once: Callable[..., Any], base: Base, family: str
) -> None:
    editor, inputs = edited_once("elder", family), padded(base, MIXED)
    scopes = []
    for epsilon in range(0, 15, 2):
        scopes.append(scope_of(with_options(editor, epsilon=epsilon), inputs))
    assert not scopes[0].any()
    assert scopes[-1].all()
    for narrow, wide in pairwise(scopes):
        assert not (narrow & ~wide).any()


def test_e08_a_code_at_distance_epsilon_is_out(edited_once: Callable[..., Any], base: Base, family: str) -> None:
    editor, inputs = edited_once("elder", family), padded(base, MIXED)
    distance = editor.routes(inputs["input_ids"], inputs["attention_mask"]).score[:, 0]
    for epsilon in {*distance.int().tolist(), 4}:
        assert torch.equal(scope_of(with_options(editor, epsilon=epsilon), inputs), distance < epsilon)
    assert len(set(distance.tolist())) > 1


def test_e08_the_scope_only_shrinks_with_the_thresholds(
    edited_once: Callable[..., Any], base: Base, family: str
) -> None:
    editor, inputs = edited_once("elder-plus", family), padded(base, MIXED)
    scopes = []
    for threshold in (-1.0, 0.0, 0.3, 0.6, 0.95, 1.01):
        twin = with_options(editor, subject_threshold=threshold, answer_threshold=threshold)
        scopes.append(scope_of(twin, inputs))
    assert scopes[0].all()
    assert not scopes[-1].any()
    for wide, narrow in pairwise(scopes):
        assert not (narrow & ~wide).any()


# ---- E9: out of scope ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_e09_out_of_scope_rows_equal_base_bit_for_bit_beside_rows_in_scope(
    edited_once: Callable[..., Any], method: str, family: str, dtype: torch.dtype
) -> None:
    editor = edited_once(method, family, dtype)
    inputs = padded(editor.base, MIXED)
    inside = scope_of(editor, inputs)
    assert 0 < int(inside.sum()) < len(MIXED)
    ours = real_rows(inputs, logits_of(editor.model, inputs))
    theirs = real_rows(inputs, logits_of(editor.base.model, inputs))
    for row, mine, other in zip(inside.tolist(), ours, theirs, strict=True):
        assert torch.equal(mine, other) != row


def test_e09_in_scope_rows_of_a_mixed_batch_equal_their_own_run(edited: Any, base: Base) -> None:
    inputs = padded(base, MIXED)
    rows = real_rows(inputs, logits_of(edited.model, inputs))
    for prompt, row, inside in zip(MIXED, rows, scope_of(edited, inputs).tolist(), strict=True):
        if inside:
            torch.testing.assert_close(row, logits_of(edited.model, padded(base, [prompt]))[0], atol=1e-4, rtol=1e-4)


def test_e09_disabled_is_the_base_bit_for_bit_and_ends_with_its_block(edited: Any, base: Base) -> None:
    inputs = padded(base, LEARNT)
    ours, theirs = logits_of(edited.model, inputs), logits_of(base.model, inputs)
    assert not torch.equal(ours, theirs)
    with edited.disabled():
        assert torch.equal(logits_of(edited.model, inputs), theirs)
        wanted = base.model.generate(**inputs, max_new_tokens=4, do_sample=False)
        assert torch.equal(edited.model.generate(**inputs, max_new_tokens=4, do_sample=False), wanted)
    assert torch.equal(logits_of(edited.model, inputs), ours)


def test_e09_plus_tokens_before_the_last_prompt_token_are_the_base_models(
    edited_once: Callable[..., Any], base: Base, family: str
) -> None:
    editor, inputs = edited_once("elder-plus", family), padded(base, LEARNT)
    ours, theirs = logits_of(editor.model, inputs), logits_of(base.model, inputs)
    for mine, other in zip(real_rows(inputs, ours), real_rows(inputs, theirs), strict=True):
        assert torch.equal(mine[:-1], other[:-1])
        assert not torch.equal(mine[-1], other[-1])


# ---- E10: one decision a sequence ------------------------------------------------------------------------------------


def test_e10_generation_with_and_without_cache_and_teacher_forcing_agree(edited: Any, base: Base) -> None:
    inputs = padded(base, MIXED)
    width = inputs["input_ids"].shape[1]
    runs = [
        edited.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=cache)
        for cache in (True, False)
    ]
    assert torch.equal(*runs)
    whole = runs[0]
    assert not torch.equal(whole, base.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False))
    mask = torch.cat([inputs["attention_mask"], torch.ones(len(MIXED), NEW_TOKENS, dtype=torch.long)], dim=1)
    forced = {"input_ids": whole, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    with edited.routed_at(torch.full((len(MIXED),), width - 1)):
        said = logits_of(edited.model, forced)[:, width - 1 : -1].argmax(-1)
    assert torch.equal(said, whole[:, width:])


@pytest.mark.parametrize("cache", [True, False])
def test_e10_routing_is_fixed_while_an_answer_is_generated(edited: Any, base: Base, cache: bool) -> None:
    inputs, routes = padded(base, MIXED), []
    head = edited.model.get_output_embeddings()
    handle = head.register_forward_hook(lambda *_: routes.append(edited.edits._pass.get().routes))
    try:
        edited.model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False, use_cache=cache)
    finally:
        handle.remove()
    assert len(routes) == NEW_TOKENS
    first = gates_by_row(routes[0])
    assert [g is not None for g in first] == scope_of(edited, inputs).tolist()
    for route in routes[1:]:
        assert_same_gates(gates_by_row(route), first)
        if cache:
            assert torch.equal(route.gates, routes[0].gates)  # kept, not found again


def test_e10_cached_decoding_by_hand_equals_generate(edited: Any, base: Base) -> None:
    inputs = padded(base, LEARNT)
    wanted = edited.model.generate(**inputs, max_new_tokens=3, do_sample=False)
    with torch.no_grad():
        out = edited.model(**inputs, use_cache=True)
        mask, said = inputs["attention_mask"], [inputs["input_ids"]]
        for _ in range(3):
            said.append(out.logits[:, -1].argmax(-1, keepdim=True))
            mask = torch.cat([mask, torch.ones(len(mask), 1, dtype=mask.dtype)], dim=1)
            positions = mask.sum(1, keepdim=True) - 1
            past = out.past_key_values
            out = edited.model(input_ids=said[-1], attention_mask=mask, position_ids=positions, past_key_values=past)
    assert torch.equal(torch.cat(said, dim=1), wanted)


def test_e10_a_cache_that_was_filled_outside_is_gone_on_with(edited: Any, base: Base) -> None:
    inputs = padded(base, MIXED)
    ids, mask, positions = inputs["input_ids"], inputs["attention_mask"], inputs["position_ids"]
    for before in (3, ids.shape[1] - 1):
        with torch.no_grad():
            edited.model(input_ids=ids[:2], attention_mask=mask[:2], position_ids=positions[:2])  # another batch
            head = {"input_ids": ids[:, :before], "attention_mask": mask[:, :before]}
            past = base.model(**head, position_ids=positions[:, :before], use_cache=True).past_key_values
            tail = {"input_ids": ids[:, before:], "attention_mask": mask, "position_ids": positions[:, before:]}
            out = edited.model(**tail, past_key_values=past)
        assert out.logits.shape[:2] == (len(MIXED), ids.shape[1] - before)
        record = record_of(out.past_key_values, edited.edits.identity)
        assert (record.ends >= before).all()  # a decision was made, about the tokens that were seen
        past = base.model(**head, position_ids=positions[:, :before], use_cache=True).past_key_values
        said = edited.model.generate(input_ids=ids, attention_mask=mask, past_key_values=past, max_new_tokens=2)
        assert said.shape == (len(MIXED), ids.shape[1] + 2)


def test_e10_beams_agree_with_and_without_cache(edited: Any, base: Base) -> None:
    inputs = padded(base, MIXED)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": False, "num_beams": 3}
    cached, plain = (edited.model.generate(**inputs, **options, use_cache=cache) for cache in (True, False))
    assert torch.equal(cached, plain)
    theirs = base.model.generate(**inputs, **options)
    outside = ~scope_of(edited, inputs)
    assert torch.equal(cached[outside], theirs[outside])
    assert not torch.equal(cached, theirs)


def test_e10_a_generation_does_not_reach_into_the_next(edited: Any, base: Base) -> None:
    inside, outside = padded(base, [LEARNT[0]]), padded(base, [OTHERS[0]])
    edited.model.generate(**inside, max_new_tokens=3, do_sample=False)
    wanted = base.model.generate(**outside, max_new_tokens=NEW_TOKENS, do_sample=False)
    assert torch.equal(edited.model.generate(**outside, max_new_tokens=NEW_TOKENS, do_sample=False), wanted)


# ---- E12: size -------------------------------------------------------------------------------------------------------


def test_e12_parameters_follow_the_formula_and_do_not_grow_with_edits(
    fresh: Callable[..., Any], method: str, family: str
) -> None:
    editor, o = fresh(), fresh().options
    inner = INNER[family]
    query = (inner if family == "llama" else WIDTH) if method == "elder" else WIDTH
    per_layer = o.experts * o.rank * (inner + WIDTH)
    routers = o.experts * query + o.experts
    layers = len(editor.layers)
    count = sum(p.numel() for p in editor.trainable())
    assert count == layers * (per_layer + (routers if method == "elder" else 0))
    assert sum(p.numel() for p in editor.router.parameters()) == layers * routers
    before = {n: t.shape for n, t in editor.state_dict().items() if n.startswith(("mixtures.", "router."))}
    editor.edit(EDITS)
    assert sum(p.numel() for p in editor.trainable()) == count
    assert {n: t.shape for n, t in editor.state_dict().items() if n in before} == before
