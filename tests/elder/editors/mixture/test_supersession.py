"""A fact that is corrected once more: the newest edit answers, however the two were worded; nothing else changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from elder.base import Base
from elder.edit import Edit
from elder.editors.make import make_editor
from elder.editors.mixture.supersession import Contention, corrected, may_correct, same_name
from elder.errors import AdapterError
from elder.state import pack_json, unpack_json
from tests.elder.tiny import EDITS, OPTIONS, OTHERS, make_base, padded

X, Y, BETWEEN = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.8, 0.6, 0.0]])
FIRST = EDITS[0]  # "The river of Arlo is", trained with "Arlo lies on the river"
AGAIN = Edit(FIRST.rephrases[0], "Ob", subject="arlo")
MAYOR = Edit("The mayor of Arlo is", "Ula", subject="Arlo")


def known(prompt: str | None, subject: str | None, *answers: str | None) -> dict[str, Any]:
    return {"id": str(prompt), "prompt": prompt, "subject": subject, "answers": list(answers)}


def found(
    question: torch.Tensor,
    stored: torch.Tensor,
    agreed: float | None,
    record: dict[str, Any] | None = None,
    truth: str | None = None,
    rule: Contention | None = Contention(0.9, -4.0, 8.0),  # noqa: B008  # it never changes
) -> dict[int, list[int]]:
    new = Edit("Where is Arlo?", "Ob", subject="Arlo", ground_truth=truth)
    earlier = [record or known("Arlo is in", "Arlo")]
    return corrected([new], [question[None]], lambda i, number: agreed, earlier, stored[None, None], rule)


@pytest.mark.parametrize(
    ("question", "stored", "agreed", "replaced"),
    [
        (X, X, -3.9, True),
        (X, X, -4.1, False),  # the base does not say that answer here: another question, however alike
        (X, BETWEEN, -3.1, True),  # 0.1 too little alike, which 0.8 nats make up for
        (X, BETWEEN, -3.3, False),
        (X, Y, -0.0, False),  # too little alike for any answer
        (X, X, None, True),
        (X, BETWEEN, None, False),
    ],
)
def test_two_edits_contend_where_the_gate_would_take_one_for_the_other(
    question: torch.Tensor, stored: torch.Tensor, agreed: float | None, replaced: bool
) -> None:
    assert found(question, stored, agreed) == ({0: [0]} if replaced else {})


def test_without_a_trade_both_must_reach_their_thresholds() -> None:
    assert found(X, BETWEEN, -0.1, rule=Contention(0.9, -4.0, None)) == {}
    assert found(X, BETWEEN, -3.9, rule=Contention(0.8, -4.0, None)) == {0: [0]}


def test_a_low_threshold_does_not_make_questions_one_that_nobody_knows_the_answer_of() -> None:
    half = torch.tensor([0.5, 0.75**0.5, 0.0])
    assert found(X, half, None, rule=Contention(0.3, -4.0, 8.0)) == {}
    assert found(X, half, -3.0, rule=Contention(0.3, -4.0, 8.0)) == {0: [0]}


@pytest.mark.parametrize(
    ("truth", "answers", "replaced"),
    [
        ("tam", ("ob", "tam"), True),  # both replace the same answer
        ("Ob", ("ob", "tam"), True),  # corrects what the first made of it
        ("Ula", ("ob", "tam"), False),  # another fact of the subject, whatever base and keys say
        ("Ula", ("ob", None), True),  # the first does not say: base and keys decide
        (None, ("ob", "tam"), True),
    ],
)
def test_what_the_edits_say_they_replace_counts_most(
    truth: str | None, answers: tuple[str | None, ...], replaced: bool
) -> None:
    assert found(X, X, -1.0, known("a", "Arlo", *answers), truth) == ({0: [0]} if replaced else {})


def test_the_same_old_answer_to_quite_another_question_is_not_enough() -> None:
    assert found(X, Y, -0.1, known("a", "Arlo", "ob", "tam"), "tam") == {}
    assert found(X, BETWEEN, -9.0, known("a", "Arlo", "ob", "tam"), "tam") == {0: [0]}


def test_only_edits_of_the_same_subject_and_only_those_in_force() -> None:
    assert found(X, X, -1.0, known("Brend is in", "Brend")) == {}
    assert found(X, X, -1.0, known(None, "Arlo")) == {}
    assert found(X, X, -1.0, known("Arlo is in", None)) == {}
    assert found(X, X, -1.0, known("Arlo is in", " ARLO ")) == {0: [0]}


def test_by_prompt_nothing_else_is_replaced() -> None:
    assert found(X, X, -1.0, rule=None) == {}
    assert found(X, Y, -9.0, known("Where is Arlo?", None), rule=None) == {0: [0]}


def test_names_are_the_same_however_they_are_written() -> None:
    assert same_name("Cafe\u0301  d\u2019Or") == same_name("caf\u00e9 d'or")
    assert same_name("Arlo") != same_name("Arlos")
    assert same_name("  ") is same_name(None) is None


def test_a_batch_may_hold_two_facts_of_a_subject_but_no_fact_twice() -> None:
    def edit(prompt: str, truth: str | None, target: str = "new") -> Edit:
        return Edit(prompt, target, subject="Arlo", ground_truth=truth)

    assert may_correct(edit("a", None), edit("b", "Tam"))
    assert may_correct(edit("a", "tam"), edit("b", "Tam"))
    assert may_correct(edit("a", "Ob"), edit("b", "Tam", target="Ob"))  # corrects what the first made of it
    assert not may_correct(edit("a", "Ula"), edit("b", "Tam"))
    assert may_correct(edit("a", "Ula"), edit("a", "Tam"))
    assert not may_correct(edit("a", None), Edit("b", "x", subject="Brend"))
    assert not may_correct(edit("a", None), Edit("b", "x"))


# ---- in an editor ----------------------------------------------------------------------------------------------------


def plus(base: Base, **options: Any) -> Any:
    shape = {"batch_size": 1, "steps": 60, "extra_steps": 40, "rank": 8, "prefixes": 0, "ask_base": None}
    return make_editor("elder-plus", base, **{**OPTIONS["elder-plus"], **shape, **options})


def said(editor: Any, prompt: str, length: int = 3) -> str:
    inputs = padded(editor.base, [prompt])
    made = editor.model.generate(**inputs, max_new_tokens=length, do_sample=False)
    return str(editor.base.tokenizer.decode(made[0, inputs["input_ids"].shape[1] :]))


def owners(editor: Any, prompts: list[str]) -> list[int]:
    inputs = padded(editor.base, prompts)
    routes = editor.routes(inputs["input_ids"], inputs["attention_mask"])
    return torch.where(routes.inside, routes.owner, -1).tolist()


def corrected_once(base: Base, **options: Any) -> tuple[Any, Any]:
    """The first edit, another, and the first once more in the wording that it was trained on."""
    editor = plus(base, **options)
    editor.edit([FIRST, EDITS[1]])
    return editor, editor.edit([AGAIN])


@pytest.fixture(scope="module")
def base() -> Base:
    return make_base("llama")


@pytest.fixture(scope="module")
def edited(base: Base) -> tuple[Any, Any]:
    return corrected_once(base)


def test_the_newest_answer_is_given_in_the_wordings_of_both(edited: tuple[Any, Any]) -> None:
    editor, receipt = edited
    assert [said(editor, prompt) for prompt in FIRST.training_prompts] == [" Ob", " Ob"]
    assert owners(editor, list(FIRST.training_prompts)) == [2, 2]
    assert FIRST.id in receipt.outcomes[0].note
    assert editor.replaced == {FIRST.id: AGAIN.id}
    assert {row.owner for row in editor.ledger.rows} == {1, 2}


def test_what_was_not_corrected_stays(edited: tuple[Any, Any]) -> None:
    editor, _ = edited
    assert owners(editor, [EDITS[1].prompt]) == [1]
    assert said(editor, EDITS[1].prompt, 4) == " Ula"
    assert owners(editor, list(OTHERS)) == [-1] * len(OTHERS)


def test_another_question_about_the_subject_is_no_correction(base: Base) -> None:
    editor = plus(base)
    receipt = editor.edit([FIRST, MAYOR])
    assert [outcome.note for outcome in receipt.outcomes] == ["", ""]
    assert editor.replaced == {}
    assert owners(editor, [FIRST.prompt, MAYOR.prompt]) == [0, 1]


def test_by_prompt_the_other_wording_keeps_the_old_answer(base: Base) -> None:
    editor, receipt = corrected_once(base, replaces="prompt")
    assert (receipt.outcomes[0].note, editor.replaced) == ("", {})
    assert owners(editor, [FIRST.prompt]) == [0]


def test_a_correction_of_a_correction_answers_for_both(base: Base) -> None:
    editor, _ = corrected_once(base)
    last = Edit(FIRST.prompt, "Ub", subject="Arlo", rephrases=FIRST.rephrases)
    receipt = editor.edit([last])
    assert AGAIN.id in receipt.outcomes[0].note
    assert editor.replaced == {FIRST.id: last.id, AGAIN.id: last.id}
    assert [said(editor, prompt) for prompt in FIRST.training_prompts] == [" Ub", " Ub"]


def test_a_fact_and_its_correction_in_one_call_are_two_batches(base: Base) -> None:
    editor = plus(base, batch_size=3)
    receipt = editor.edit([FIRST, EDITS[1], AGAIN])
    assert [bool(outcome.note) for outcome in receipt.outcomes] == [False, False, True]
    assert len(receipt.losses) == 2
    assert owners(editor, list(FIRST.training_prompts)) == [2, 2]


def test_a_failed_batch_replaces_nothing(base: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    editor = plus(base)
    editor.edit([FIRST])
    before = editor.state_dict()

    def fails(*args: Any) -> Any:
        raise RuntimeError("no room")

    monkeypatch.setattr("elder.editors.mixture.elder_plus.descend", fails)
    with pytest.raises(RuntimeError, match="no room"):
        editor.edit([AGAIN])
    after = editor.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert editor.replaced == {}


def test_heirs_are_kept_in_the_state(edited: tuple[Any, Any], base: Base) -> None:
    editor, _ = edited
    other = plus(base)
    other.load_state_dict(editor.state_dict())
    assert other.replaced == editor.replaced
    assert owners(other, list(FIRST.training_prompts)) == [2, 2]


@pytest.mark.parametrize("heir", [0, 3, -1, "2", True])
def test_an_heir_that_is_not_there_is_refused(edited: tuple[Any, Any], base: Base, heir: Any) -> None:
    state = dict(edited[0].state_dict())
    records = unpack_json(state["known"])
    records[0]["heir"] = heir
    state["known"] = pack_json(records)
    with pytest.raises(AdapterError, match="heirs that are not there"):
        plus(base).load_state_dict(state)
