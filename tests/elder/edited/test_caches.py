"""What people do with the caches of an edited model: share, copy, cut, reorder, go on with them."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from elder.mixture.cached import record_of
from tests.elder.edited.talk import INSIDE, MIXED, OUTSIDE, Alone, Session, inputs_of, said
from tests.elder.tiny import EDITS, padded_right

MORE = 6
PREFIX = "The river of"
FROM_PREFIX = [f"{PREFIX} Arlo is", f"{PREFIX} Zzyx is", f"{PREFIX} Arlo is", f"{PREFIX} Brend lies", PREFIX + " A"]


def answer(model: Any, ids: Tensor, cache: Any) -> list[int]:
    """What a model says to ids, with a cache of their beginning."""
    return said(model, whole(ids), MORE, past_key_values=cache)[0]


def whole(ids: Tensor) -> dict[str, Tensor]:
    """Ids of which all are real; without a mask `generate` takes the id of padding for padding."""
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def ids_of(editor: Any, prompt: str) -> Tensor:
    return inputs_of(editor.base, [prompt])["input_ids"]


@torch.no_grad()
def cache_of(model: Any, ids: Tensor) -> Any:
    return model(input_ids=ids, use_cache=True).past_key_values


# ---- sharing a beginning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("maker", ["edited", "base", "generation"])
def test_a_prefix_is_read_once_and_used_many_times(loud: Any, alone: Alone, maker: str) -> None:
    prefix = ids_of(loud, PREFIX)
    if maker == "generation":
        out = loud.model.generate(prefix, max_new_tokens=1, return_dict_in_generate=True, do_sample=False)
        shared = out.past_key_values
    else:
        shared = cache_of({"edited": loud.model, "base": loud.base.model}[maker], prefix)
    for prompt in FROM_PREFIX:
        ids = ids_of(loud, prompt)
        assert torch.equal(ids[:, : prefix.shape[1]], prefix)
        assert answer(loud.model, ids, copy.deepcopy(shared)) == alone(prompt, MORE), prompt


def test_a_prefix_is_read_once_for_a_batch(loud: Any, alone: Alone) -> None:
    cache = cache_of(loud.model, ids_of(loud, PREFIX))
    cache.batch_repeat_interleave(3)
    prompts = [f"{PREFIX} {rest}" for rest in ("Arlo is", "Zzyx is", "Arlo xx")]
    assert said(loud.model, inputs_of(loud.base, prompts), MORE, past_key_values=cache) == alone.each(prompts, MORE)


@pytest.mark.parametrize("inside", [True, False])
def test_a_prompt_that_was_answered_is_the_beginning_of_another(loud: Any, inside: bool) -> None:
    """The first prompt may be in scope, so that its last tokens are corrected in the cache."""
    first = INSIDE[1] if inside else OUTSIDE[0]
    shared = cache_of(loud.model, ids_of(loud, first))
    for more in (" built. " + INSIDE[0], ", they say"):
        ids = ids_of(loud, first + more)
        wanted = said(loud.model, whole(ids), MORE)[0]
        assert answer(loud.model, ids, copy.deepcopy(shared)) == wanted


def test_a_cache_of_the_base_model_is_gone_on_with_token_by_token(loud: Any) -> None:
    """Without the tokens before it, the visible ones count: nothing is in scope, and nothing breaks."""
    ids = ids_of(loud, INSIDE[0])
    cache = cache_of(loud.base.model, ids[:, :-1])
    with torch.no_grad():
        out = loud.model(input_ids=ids[:, -1:], past_key_values=cache)
    assert out.logits.shape[:2] == (1, 1)
    assert out.past_key_values.get_seq_length() == ids.shape[1]


def test_a_cache_of_other_edits_is_read_again(
    loud: Any, alone: Alone, edited_once: Callable[..., Any], method: str, family: str
) -> None:
    other = edited_once(method, family)
    for prompt in (INSIDE[0], OUTSIDE[0]):
        ids = ids_of(loud, prompt)
        cache = cache_of(other.model, ids[:, :-1])
        assert answer(loud.model, ids, cache) == alone(prompt, MORE)


# ---- conversations ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("turns", [(INSIDE[0], INSIDE[1]), (INSIDE[2], OUTSIDE[0]), (OUTSIDE[0], INSIDE[4])])
@pytest.mark.parametrize("kept", [True, False], ids=["new tokens only", "all tokens"])
def test_a_chat_goes_on_in_the_same_cache(loud: Any, turns: tuple[str, str], kept: bool) -> None:
    """Each turn is answered as if the whole conversation were read at once."""
    model, text, cache = loud.model, ids_of(loud, turns[0]), DynamicCache()
    for number in range(3):
        wanted = said(model, whole(text), MORE)[0]
        given = text[:, cache.get_seq_length() :] if kept and number else text
        out = model.generate(
            given, attention_mask=torch.ones_like(text), past_key_values=cache, max_new_tokens=MORE, do_sample=False
        )
        assert out[0, -MORE:].tolist() == wanted, number
        new = ids_of(loud, " " + turns[(number + 1) % 2])[:, (1 if loud.base.tokenizer("x").input_ids[0] == 0 else 0) :]
        text = torch.cat([text, torch.tensor([wanted]), new], dim=1)


def test_an_answer_is_cut_and_said_again(loud: Any, alone: Alone) -> None:
    for prompt in (INSIDE[0], OUTSIDE[0]):
        ids = ids_of(loud, prompt)
        out = loud.model.generate(ids, max_new_tokens=MORE, do_sample=False, return_dict_in_generate=True)
        cache, wanted = out.past_key_values, alone(prompt, MORE)
        cache.crop(-3)
        step = out.sequences[:, cache.get_seq_length() :][:, :1]
        with torch.no_grad():
            for number in range(MORE - 3, MORE):
                step = loud.model(input_ids=step, past_key_values=cache).logits[:, -1:].argmax(-1)
                assert step.item() == wanted[number]


@pytest.mark.parametrize(
    ("first", "second"), [(INSIDE[0], f"{PREFIX} Zzyx is"), (f"{PREFIX} Zzyx is", INSIDE[0]), (INSIDE[1], INSIDE[2])]
)
def test_a_cache_that_is_cut_within_the_prompt_is_gone_on_with_by_another(
    loud: Any, alone: Alone, first: str, second: str
) -> None:
    one, other = ids_of(loud, first), ids_of(loud, second)
    width = min(one.shape[1], other.shape[1])
    common = int((one[0, :width] == other[0, :width]).long().cumprod(0).sum())
    cache = loud.model.generate(one, max_new_tokens=MORE, do_sample=False, return_dict_in_generate=True).past_key_values
    cache.crop(common - cache.get_seq_length())
    assert answer(loud.model, other, cache) == alone(second, MORE)


# ---- rows ------------------------------------------------------------------------------------------------------------


def half_way(editor: Any, prompts: list[str], chunk: int = 0) -> tuple[Session, Any]:
    """A session after three tokens of its answer, and its run."""
    session = Session(editor, prompts, MORE, chunk=chunk)
    run = session.run()
    while len(session.answer) < 3:
        next(run)
    return session, run


CHANGES: dict[str, tuple[list[int], Callable[[Any], None]]] = {
    "selected": ([2, 0], lambda cache: cache.batch_select_indices(torch.tensor([2, 0]))),
    "dropped": ([1, 2, 3], lambda cache: cache.batch_select_indices(torch.tensor([1, 2, 3]))),
    "repeated": ([0, 0, 1, 1, 2, 2, 3, 3], lambda cache: cache.batch_repeat_interleave(2)),
    "reordered": ([3, 2, 1, 0], lambda cache: cache.reorder_cache(torch.tensor([3, 2, 1, 0]))),
    "one twice": ([2, 2, 0, 0], lambda cache: cache.reorder_cache(torch.tensor([2, 2, 0, 0]))),
}


@torch.no_grad()
def test_prompts_that_are_filled_up_on_the_right(loud: Any, alone: Alone) -> None:
    """Each row is routed at its own last token; the padding stays in the cache and is not looked at."""
    inputs = padded_right(loud.base, MIXED)
    out, mask = loud.model(**inputs, use_cache=True), inputs["attention_mask"]
    tokens = [out.logits[torch.arange(len(MIXED)), mask.sum(1) - 1].argmax(-1, keepdim=True)]
    while len(tokens) < MORE:
        mask = torch.cat([mask, torch.ones_like(tokens[-1])], dim=1)
        options = {"attention_mask": mask, "position_ids": mask.sum(1, keepdim=True) - 1}
        out = loud.model(input_ids=tokens[-1], past_key_values=out.past_key_values, **options)
        tokens.append(out.logits[:, -1:].argmax(-1))
    assert torch.cat(tokens, dim=1).tolist() == alone.each(MIXED, MORE)


@pytest.mark.parametrize("what", CHANGES)
def test_rows_leave_double_and_change_places(loud: Any, alone: Alone, what: str) -> None:
    session, run = half_way(loud, MIXED)
    rows, change = CHANGES[what]
    change(session.cache)
    session.keep(rows)
    list(run)
    assert session.said() == alone.each([MIXED[row] for row in rows], MORE)


@pytest.mark.parametrize("what", ["copied", "pickled"])
@pytest.mark.parametrize("chunk", [0, 4])
def test_a_copy_of_a_cache_goes_its_own_way(loud: Any, alone: Alone, what: str, chunk: int) -> None:
    session, run = half_way(loud, MIXED, chunk)
    twin, other = half_way(loud, MIXED, chunk)
    twin.cache = copy.deepcopy(session.cache) if what == "copied" else pickle.loads(pickle.dumps(session.cache))
    next(run)
    twin.cache.batch_select_indices(torch.tensor([2, 1]))
    twin.keep([2, 1])
    list(other)
    list(run)
    assert session.said() == alone.each(MIXED, MORE)
    assert twin.said() == alone.each([MIXED[2], MIXED[1]], MORE)


def test_an_emptied_cache_is_used_again(loud: Any, alone: Alone) -> None:
    cache = DynamicCache()
    for prompt in (INSIDE[0], OUTSIDE[0], INSIDE[1]):
        assert answer(loud.model, ids_of(loud, prompt), cache) == alone(prompt, MORE)
        cache.crop(-cache.get_seq_length())
        assert cache.get_seq_length() == 0


# ---- edits that come while somebody is decoding ---------------------------------------------------------------------


def test_a_sequence_keeps_its_route_when_others_are_learnt(fresh: Callable[..., Any]) -> None:
    """What has been decided about a sequence stays decided; what begins afterwards knows the new edits."""
    editor = fresh()
    editor.edit(EDITS[:2])
    prompts = [INSIDE[0], "zzz qqq"]
    session = Session(editor, prompts, MORE)
    assert editor.in_scope(**session.inputs).tolist() == [True, False]
    run = session.run()
    next(run)
    record = record_of(session.cache, editor.edits.identity)
    before = copy.deepcopy(record.routes)
    editor.edit(EDITS[2:4])
    list(run)
    assert record_of(session.cache, editor.edits.identity) is record
    assert torch.equal(record.routes.gates, before.gates)
    assert torch.equal(record.routes.inside, before.inside)
    for ours, theirs in zip(session.logits, session.base_logits(session.width), strict=True):
        assert torch.equal(ours[1], theirs[1])
        assert not torch.equal(ours[0], theirs[0])
    assert editor.in_scope(**inputs_of(editor.base, [INSIDE[2]])).tolist() == [True]
