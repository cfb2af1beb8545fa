"""An answer that has been begun is pushed towards its rest, and nothing else is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

import elder
from elder import make_editor
from elder.errors import AdapterError
from elder.mixture.answers import AnswerBias
from elder.state import pack_json, unpack_json
from elder.tokens import encode_prompt, encode_target
from tests.elder.chat_templates import TEMPLATES, chat_model, chat_tokenizer
from tests.elder.edited.talk import INSIDE, OUTSIDE, inputs_of, said
from tests.elder.tiny import EDITS, OPTIONS, PUSH, logits_of

MORE = 6
OWNERS = [0, 1, 2, 3, 0, 2]  # of the prompts in scope


@pytest.fixture(scope="module")
def pair(loud_of: Callable[..., Any]) -> tuple[Any, Any]:
    """Elder-plus with a push, and the same without."""
    loud = loud_of("elder-plus", "llama")
    options = {**OPTIONS["elder-plus"], "ask_base": loud.options.ask_base, "answer_bias": 0.0}
    unpushed = make_editor("elder-plus", loud.base, **options)
    unpushed.load_state_dict(loud.state_dict())
    return loud, unpushed


def answer_of(editor: Any, owner: int) -> list[int]:
    edit = EDITS[owner]
    return encode_target(editor.base.texts, edit.prompt, edit.target)


def pushed_by_hand(unpushed: Any, prompt: str, owner: int) -> list[int]:
    """A greedy answer of `MORE` tokens, token by token, with the push added outside the model."""
    answer, text = answer_of(unpushed, owner), list[int]()
    with torch.no_grad():
        out = unpushed.model(**inputs_of(unpushed.base, [prompt]))
        while True:
            logits = out.logits[0, -1].clone()
            if len(text) < len(answer) and text == answer[: len(text)]:
                logits[answer[len(text)]] += PUSH
            text.append(int(logits.argmax()))
            if len(text) == MORE:
                return text
            out = unpushed.model(input_ids=torch.tensor([text[-1:]]), past_key_values=out.past_key_values)


def test_a_push_changes_what_adding_to_the_logits_would_change(pair: tuple[Any, Any]) -> None:
    loud, unpushed = pair
    wanted = [pushed_by_hand(unpushed, prompt, owner) for prompt, owner in zip(INSIDE, OWNERS, strict=True)]
    plain = said(unpushed.model, inputs_of(loud.base, INSIDE), MORE)
    assert said(loud.model, inputs_of(loud.base, INSIDE), MORE) == wanted
    assert sum(one != other for one, other in zip(wanted, plain, strict=True)) >= 3
    assert said(loud.model, inputs_of(loud.base, OUTSIDE), MORE) == said(
        unpushed.model, inputs_of(loud.base, OUTSIDE), MORE
    )


def differences(pair: tuple[Any, Any], ids: list[int], length: int, **more: Any) -> list[tuple[int, int]]:
    """Column and id of each logit that the push changes in a text whose prompt has `length` tokens."""
    inputs = {"input_ids": torch.tensor([ids]), "prompt_length": length, **more}
    ours, theirs = (logits_of(editor.model, dict(inputs))[0] for editor in pair)
    return _changed(ours - theirs)


def _changed(more: Tensor) -> list[tuple[int, int]]:
    found = more.abs() > 1e-4
    torch.testing.assert_close(more[found], torch.full_like(more[found], PUSH), atol=1e-4, rtol=0)
    return [(column, token) for column, token in found.nonzero().tolist()]


@pytest.mark.parametrize("owner", [0, 1])
def test_every_token_of_an_answer_that_is_scored_is_pushed_and_nothing_after_it(pair: Any, owner: int) -> None:
    prompt = inputs_of(pair[0].base, [INSIDE[owner]])["input_ids"][0].tolist()
    answer, begin = answer_of(pair[0], owner), len(prompt) - 1
    wanted = [(begin + i, token) for i, token in enumerate(answer)]
    assert differences(pair, prompt + answer + [7, 8], len(prompt)) == wanted
    departed = [*answer[:2], 9, *answer[2:]]
    assert differences(pair, prompt + departed, len(prompt)) == wanted[:3]  # the third was to come, and did not


@pytest.mark.parametrize("keep", [1, 2, 3, torch.tensor([-2, -1]), torch.tensor([21, 22]), torch.tensor([20, 22])])
def test_the_columns_that_are_kept(pair: Any, keep: Any) -> None:
    prompt = inputs_of(pair[0].base, [INSIDE[0]])["input_ids"][0].tolist()
    text = prompt + answer_of(pair[0], 0)[:2]
    assert len(text) == 23
    whole = differences(pair, text, len(prompt))
    kept = list(range(len(text)))[-keep:] if isinstance(keep, int) else [k % len(text) for k in keep.tolist()]
    wanted = [(kept.index(column), token) for column, token in whole if column in kept]
    assert differences(pair, text, len(prompt), logits_to_keep=keep) == wanted


@torch.no_grad()
@pytest.mark.parametrize("keep", [0, 1, torch.tensor([-1])])
def test_padding_between_a_prompt_and_its_answer_is_no_text(pair: Any, keep: Any) -> None:
    loud = pair[0]
    prompt, answer = inputs_of(loud.base, [INSIDE[1]])["input_ids"][0].tolist(), answer_of(loud, 1)
    mask = torch.tensor([[1] * len(prompt) + [0] * 3])
    given = {"prompt_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0), "attention_mask": mask}
    caches = [editor.model(input_ids=torch.tensor([prompt + [2] * 3]), **given).past_key_values for editor in pair]
    mask = torch.nn.functional.pad(mask, (0, 2), value=1)
    positions = torch.tensor([[len(prompt), len(prompt) + 1]])
    step = {"input_ids": torch.tensor([answer[:2]]), "attention_mask": mask, "position_ids": positions}
    ours, theirs = (
        editor.model(**step, past_key_values=cache, prompt_length=len(prompt), logits_to_keep=keep).logits[0]
        for editor, cache in zip(pair, caches, strict=True)
    )
    both = [(0, answer[1]), (1, answer[2])]
    assert _changed(ours - theirs) == (both if isinstance(keep, int) and not keep else [(0, answer[2])])


def test_a_prompt_that_comes_as_embeddings(pair: Any) -> None:
    loud, unpushed = pair
    inputs = inputs_of(loud.base, [INSIDE[1]])
    given = {"inputs_embeds": loud.model.get_input_embeddings()(inputs["input_ids"]).detach()}
    answer = said(loud.model, {**given, "attention_mask": inputs["attention_mask"]}, MORE)
    assert answer == [pushed_by_hand(unpushed, INSIDE[1], 1)]
    assert answer[0][:3] == answer_of(loud, 1)[:3]  # three tokens are pushed


def test_answers_in_chat_and_as_plain_text_are_both_noted() -> None:
    tokenizer = chat_tokenizer(TEMPLATES["ChatML"])
    base = elder.wrap(chat_model(ends=[1]), tokenizer, "tiny:chat", chat="both")
    made = make_editor("elder-plus", base, **OPTIONS["elder-plus"], answer_bias=PUSH)
    made.edit(EDITS[:1])
    forms = unpack_json(made.state_dict()["known"])[0]["said"]
    assert [tokenizer.decode(form) for form in forms] == ["Tam", " Tam"]
    for form, answer in zip(base.texts.forms, forms, strict=True):
        ids = torch.tensor([[*encode_prompt(form, EDITS[0].prompt), *answer]])
        begin = ids.shape[1] - len(answer)
        pushed = made.model(input_ids=ids, prompt_length=begin).logits[0].detach()
        made.edits.version.deferral.bias.size = 0.0
        plain = made.model(input_ids=ids, prompt_length=begin).logits[0].detach()
        made.edits.version.deferral.bias.size = PUSH
        assert {(begin - 1 + i, token) for i, token in enumerate(answer)} <= set(_changed(pushed - plain))


def test_edits_note_their_answers_and_give_them_on(pair: Any) -> None:
    base = pair[0].base
    made = make_editor("elder-plus", base, **OPTIONS["elder-plus"], answer_bias=PUSH)
    made.edit(EDITS[:2])
    state = made.state_dict()
    noted = [record["said"] for record in unpack_json(state["known"])]
    assert noted == [[answer_of(made, 0)], [answer_of(made, 1)]]  # without the end of the sequence
    again = make_editor("elder-plus", base, **OPTIONS["elder-plus"], answer_bias=PUSH)
    again.load_state_dict(state)
    inputs = inputs_of(base, INSIDE[:2])
    assert torch.equal(logits_of(made.model, inputs), logits_of(again.model, inputs))
    former = [{k: v for k, v in record.items() if k != "said"} for record in unpack_json(state["known"])]
    again.load_state_dict({**state, "known": pack_json(former)})  # as the adapters of before are: pushed nowhere
    assert not torch.equal(logits_of(made.model, inputs), logits_of(again.model, inputs))


@pytest.mark.parametrize("wrong", [7, [3], [["x"]], [[-1]], [[259]], [[True]]])
def test_a_state_with_answers_that_are_no_ids_is_refused(pair: Any, wrong: Any) -> None:
    state = pair[0].state_dict()
    records = unpack_json(state["known"])
    records[1]["said"] = wrong
    with pytest.raises(AdapterError, match="answers that are no ids"):
        pair[0].load_state_dict({**state, "known": pack_json(records)})


def test_what_may_come_next() -> None:
    bias = AnswerBias(1.0, [[[4, 5, 6], [4, 7]], []])
    assert bias.longest == 3
    assert bias.next_ids(0, []) == [4]
    assert bias.next_ids(0, [4]) == [5, 7]  # both forms begin like that
    assert bias.next_ids(0, [4, 7]) == []
    assert bias.next_ids(1, []) == []
    assert list(bias.along(0, [], [-1, 4, None, 5, 9])) == [(0, [4]), (1, [5, 7]), (3, [6])]
    assert list(bias.along(0, [4], [5, 6])) == [(0, [6])]
