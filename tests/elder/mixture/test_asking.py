"""The base is asked for the old answer, and the correction ends with the new one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from elder import make_editor
from elder.mixture.answers import UNKNOWN, Answers
from elder.mixture.cached import CacheRecord
from elder.mixture.route import ENDLESS, Routes
from tests.elder.edited.talk import INSIDE, MIXED, OUTSIDE, Alone, inputs_of, said
from tests.elder.tiny import OPTIONS

NEVER = 0.5  # nats: no log-probability is as high


@pytest.fixture(scope="module")
def denied(edited_once: Callable[..., Any]) -> Any:
    """Elder-plus with edits that match, and a base that never agrees about every other one."""
    quiet = edited_once("elder-plus", "llama", torch.float32)
    editor = make_editor("elder-plus", quiet.base, **{**OPTIONS["elder-plus"], "ask_base": NEVER})
    state = quiet.state_dict()
    state["answers.old"][::2] = 5
    state["answers.old"][1::2] = UNKNOWN
    editor.load_state_dict(state)
    return editor


def test_a_prompt_is_in_scope_only_if_the_base_agrees(denied: Any, loud_of: Callable[..., Any]) -> None:
    inputs = inputs_of(denied.base, [*INSIDE[:4], OUTSIDE[0]])
    assert loud_of("elder-plus", "llama").in_scope(**inputs).tolist() == [True, True, True, True, False]
    assert denied.in_scope(**inputs).tolist() == [False, True, False, True, False]


@torch.no_grad()
@pytest.mark.parametrize("cached", [True, False])
def test_where_it_does_not_agree_the_answer_is_the_bases_to_the_bit(denied: Any, cached: bool) -> None:
    inputs = inputs_of(denied.base, [INSIDE[0], INSIDE[1], OUTSIDE[0]])
    ours, theirs = (model(**inputs, use_cache=cached).logits for model in (denied.model, denied.base.model))
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[2], theirs[2])
    assert not torch.equal(ours[1, -1], theirs[1, -1])


@pytest.mark.parametrize("keep", [0, 1, 2, torch.tensor([1, 3])])
def test_the_caller_gets_the_logits_that_it_asked_for(loud_of: Callable[..., Any], keep: Any) -> None:
    loud = loud_of("elder-plus", "llama")
    inputs = inputs_of(loud.base, MIXED)
    right = {**inputs, "prompt_length": torch.tensor([3] * len(MIXED))}  # prompts that end before the last column
    with torch.no_grad():
        whole, some = loud.model(**right).logits, loud.model(**right, logits_to_keep=keep).logits
    wanted = whole[:, -keep:] if isinstance(keep, int) else whole[:, keep]
    torch.testing.assert_close(some, wanted, atol=1e-5, rtol=1e-5)


def test_one_token_is_read_again_where_all_rows_are_in_scope(
    loud_of: Callable[..., Any], alone_of: Callable[..., Alone]
) -> None:
    loud = loud_of("elder-plus", "llama")
    widths: list[int] = []
    block = next(m for n, m in loud.model.named_modules() if n.endswith("layers.0"))
    handle = block.register_forward_pre_hook(lambda _, args: widths.append(args[0].shape[1]))
    try:
        said(loud.model, inputs_of(loud.base, [INSIDE[0]]), 3)
        said(loud.model, inputs_of(loud.base, [INSIDE[0], OUTSIDE[0]]), 3)
    finally:
        handle.remove()
    alone, mixed = widths[:4], widths[4:]
    assert alone[1:] == [1, 1, 1]  # the prompt; its last token again; two more
    assert mixed == [mixed[0], mixed[0], 1, 1]  # rows out of scope keep what the same shape gave


def test_a_correction_ends_with_its_answer() -> None:
    routes = Routes.none(3, 1, 2, torch.device("cpu"))
    inside = torch.tensor([True, True, False])
    record = CacheRecord(
        "me",
        Routes(inside, routes.gates + 1, routes.group, routes.owner, routes.score, torch.tensor([2, 4, 1])),
        torch.device("cpu"),
    )
    record.extend(torch.zeros(3, 3, dtype=torch.long), None, None, None)
    record.ends = torch.tensor([2, 2, 2])
    rows = []
    for _ in range(5):
        plan = record.step()
        rows.append([] if plan is None else [0, 1, 2] if plan.tokens is None else plan.tokens.tolist())
        record.extend(torch.zeros(3, 1, dtype=torch.long), None, None, None)
    assert rows == [[0, 1], [1], [1], [], []]  # the last prompt token was corrected before
    record.crop(4)
    plan = record.step()
    assert plan is not None
    assert plan.tokens is not None
    assert plan.tokens.tolist() == [1]


@torch.no_grad()
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_takes_no_share_of_the_answer(loud_of: Callable[..., Any], side: str) -> None:
    """Tokens after a prompt, corrected or not: the same whether the row was filled up before or behind it."""
    loud = loud_of("elder-plus", "llama")
    tokenizer = loud.base.tokenizer
    ids = tokenizer(INSIDE[1])["input_ids"]
    fill, ones = [tokenizer.pad_token_id] * 3, [1] * len(ids)
    left = side == "left"
    row = torch.tensor([fill + ids if left else ids + fill])
    mask = torch.tensor([[0] * 3 + ones if left else ones + [0] * 3])
    longest = int(loud.state_dict()["answers.length"][1])
    out = loud.model(
        input_ids=row, attention_mask=mask, prompt_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0)
    )
    changed = []
    for number in range(longest + 2):
        mask = torch.nn.functional.pad(mask, (0, 1), value=1)
        step = {
            "attention_mask": mask,
            "position_ids": mask.sum(1, keepdim=True) - 1,
            "past_key_values": out.past_key_values,
        }
        with Corrections(loud) as found:
            out = loud.model(input_ids=torch.tensor([[7 + number]]), **step)
        changed.append(found.any)
    assert changed == [True] * (longest - 1) + [False] * 3


class Corrections:
    """Whether an edited map gives something else than its weights inside the block."""

    def __init__(self, editor: Any) -> None:
        self.editor, self.any = editor, False

    def __enter__(self) -> Corrections:
        plain = self.editor.edits.planned

        def planned() -> Any:
            found = plain()
            self.any |= found is not None
            return found

        self.editor.edits.planned = planned
        return self

    def __exit__(self, *_: object) -> None:
        del self.editor.edits.planned


def test_answers() -> None:
    answers = Answers()
    assert answers.asks(torch.tensor([-1])).tolist() == [False]
    answers.add([2, 3], [4, UNKNOWN])
    before = answers.snapshot()
    answers.add([1], [0])
    assert before.asks(torch.tensor([0, 1])).tolist() == [True, False]
    said = torch.full((2, 5), -9.0)
    said[0, 4], said[1, 0] = -1.0, -3.0
    assert answers.agree(torch.tensor([0, 2]), said, -2.0).tolist() == [True, False]
    twin = Answers()
    twin.load(answers.state())
    assert (twin.length.tolist(), twin.old.tolist()) == ([2, 3, 1], [4, UNKNOWN, 0])
    assert Answers.unknown(2)["length"].tolist() == [ENDLESS] * 2
