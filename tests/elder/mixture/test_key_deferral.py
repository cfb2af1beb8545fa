"""The rule of elder-plus: what the base says against how alike a question is, and who answers for whom."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elder.mixture.answers import UNKNOWN, Answers
from elder.mixture.deferral import LENIENT, KeyDeferral, Prompts
from elder.mixture.keys import KeyMemory
from elder.mixture.route import ENDLESS, Routes

WIDTH, LEAST = 4, 0.8
SUBJECT, QUESTION = torch.eye(WIDTH)[0], torch.eye(WIDTH)[1]


def deferral(old: list[int], trade: float | None, heirs: tuple[tuple[int, int], ...] = ()) -> KeyDeferral:
    """Edits of one subject whose questions are orthogonal."""
    count = len(old)
    memory = KeyMemory(WIDTH, WIDTH, 1, 1, 0, torch.device("cpu"))
    questions = torch.eye(WIDTH)[1 : 1 + count, None]
    memory.add(SUBJECT.expand(count, 1, 1, WIDTH), torch.ones(count, 1, 1, dtype=torch.bool), questions)
    for edit, heir in heirs:
        memory.hand_over(edit, heir)
    answers = Answers()
    answers.add([ENDLESS] * count, old)
    allocation, group_of = torch.ones(count, 1, 2, dtype=torch.bool), torch.arange(count)
    least = {"least": -4.0, "trade": trade}
    return KeyDeferral(memory, (0.9, LEAST), allocation, group_of, 2, None, False, 8, answers, **least)


def routes(rule: KeyDeferral, alike: float) -> Routes:
    """Of a prompt whose question is so much like that of the first edit."""
    last = alike * QUESTION + (1 - alike**2) ** 0.5 * torch.eye(WIDTH)[3]
    return rule.decide(Prompts(last[None], SUBJECT[None, None], torch.ones(1, 1, dtype=torch.bool)))


def inside(rule: KeyDeferral, alike: float, said: float, token: int = 7) -> bool:
    """Whether the prompt is in scope where the base gives a token such a log-probability."""
    found, logits = routes(rule, alike), torch.full((1, 10), -50.0)
    logits[0, token] = said
    agreed = rule.agrees(found, logits) if bool(rule.asks(found)) else torch.ones(1, dtype=torch.bool)
    return bool(found.inside & agreed)


@pytest.mark.parametrize(
    ("alike", "said", "expected"),
    [
        (0.81, -3.9, True),
        (0.81, -4.1, False),
        (0.7, -3.1, True),  # 0.1 too little, which 0.8 nats make up for
        (0.7, -3.3, False),
        (LEAST - LENIENT + 0.01, -1.9, True),
        (LEAST - LENIENT - 0.01, -0.0, False),  # nothing makes up for that much
    ],
)
def test_a_sure_old_answer_makes_up_for_a_question_that_is_less_alike(alike: float, said: float, expected: Any) -> None:
    assert inside(deferral([7], 8.0), alike, said) is expected


def test_without_a_trade_and_without_an_old_answer_the_threshold_is_the_threshold() -> None:
    for rule in (deferral([7], None), deferral([UNKNOWN], 8.0)):
        assert inside(rule, 0.81, -1.0)
        assert not inside(rule, 0.79, -1.0)


def test_an_heir_answers_and_the_base_is_asked_about_the_edit_that_matched() -> None:
    rule = deferral([7, 3], 8.0, heirs=((0, 1),))
    found = routes(rule, 0.9)
    assert (found.owner.tolist(), found.matched.tolist(), found.group.tolist()) == ([1], [0], [1])
    assert inside(rule, 0.9, -1.0, token=7)
    assert not inside(rule, 0.9, -1.0, token=3)
    assert found.at(torch.tensor([0])).matched.tolist() == [0]
