"""Thresholds, the ledger, prefixes, subjects in prompts, training rows."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from elder.edit import Edit
from elder.mixture.keys import ENOUGH, ThresholdCalibrator
from elder.mixture.replay_buffer import ReplayBuffer
from elder.mixture.samples import SENTENCES, Row, collate, edit_rows, encode_rows, prefixed
from elder.mixture.subject import distinctive_tokens, pick_subject, subject_tokens
from tests.elder.tiny import make_tokenizer

# ---- thresholds -----------------------------------------------------------------------------------------------------


def separator(wanted: list[float], unwanted: list[float], barred: float = 0.9) -> ThresholdCalibrator:
    made = ThresholdCalibrator(0.75, barred, 0.2)
    made.observe(wanted, unwanted)
    return made


def test_the_prior_stands_until_enough_is_wanted() -> None:
    assert separator([0.5] * (ENOUGH - 1), [0.1] * 50).threshold == 0.75
    assert separator([0.5] * ENOUGH, [0.1] * 50).threshold != 0.75


def test_without_unwanted_samples_the_low_tail_of_the_wanted_is_the_threshold() -> None:
    wanted = [i / 100 for i in range(101)]
    assert separator(wanted, []).threshold == pytest.approx(0.02)


def test_a_gap_gives_some_slack_below_the_wanted() -> None:
    assert separator([0.9] * 20, [0.1] * 20).threshold == pytest.approx(0.9 - 0.2 * 0.8)


def test_the_threshold_is_never_below_what_is_barred_nor_above_half_of_the_wanted() -> None:
    overlapping = separator([0.4] * 10 + [0.8] * 11, [0.6] * 20)
    assert overlapping.threshold == pytest.approx(0.6)
    hopeless = separator([0.4] * 10 + [0.5] * 11, [0.9] * 20)
    assert hopeless.threshold == pytest.approx(0.5)


def test_samples_are_bounded_and_all_that_came_are_equally_likely_among_them() -> None:
    made, slowly = (ThresholdCalibrator(0.75, 0.9, 0.2, limit=100) for _ in range(2))
    values = [i / 5000 for i in range(5000)]
    made.observe(values, [0.0] * 50)
    for value in values:
        slowly.observe([value], [])
    assert (len(made.wanted), len(made.unwanted), made.observed) == (100, 50, [5000, 50])
    assert slowly.wanted == made.wanted
    share = [sum(begin <= one < begin + 0.2 for one in made.wanted) / 100 for begin in (0, 0.2, 0.4, 0.6, 0.8)]
    assert all(0.1 <= one <= 0.3 for one in share), share
    before = list(made.wanted)
    made.observe(values, [])
    assert sum(one != other for one, other in zip(before, made.wanted, strict=True)) > 20  # the newest go on counting


def test_a_gate_knows_what_share_of_other_questions_passes() -> None:
    made = ThresholdCalibrator(0.75, 0.9, 0.2)
    made.observe([0.6] * 20, [0.1] * 30 + [0.7] * 10)
    assert (made.passing(0.6), made.passing(0.7), made.passing(0.71)) == (0.25, 0.25, 0.0)
    made.unwanted = [0.7] * 7
    assert made.passing(0.6) == 0.0  # too few to say


# ---- ledger ---------------------------------------------------------------------------------------------------------


def ledger(rows: int = 30, seed: int = 0) -> ReplayBuffer:
    made = ReplayBuffer(seed)
    rng = random.Random(1)
    for i in range(rows):
        made.add([Row((1, i), (7,) * (1 + i % 3), i // 2, "x")], [rng.random()])
    return made


def test_draws_depend_on_seed_and_batch_only() -> None:
    assert ledger().draw(10, 3) == ledger().draw(10, 3)
    assert ledger().draw(10, 3) != ledger().draw(10, 4)
    assert ledger(seed=1).draw(10, 3) != ledger().draw(10, 3)
    random.seed(5)
    assert ledger().draw(10, 3) == ledger().draw(10, 3)


@pytest.mark.parametrize("count", [1, 2, 9, 10, 29])
def test_a_draw_has_no_row_twice_and_holds_the_worst_half(count: int) -> None:
    made = ledger()
    drawn = made.draw(count, 0)
    assert len(set(drawn)) == len(drawn) == count
    worst = sorted(range(30), key=lambda i: -made.loss[i])[: count // 2]
    assert set(worst) <= set(drawn)


def test_a_draw_larger_than_the_ledger_is_all_of_it_and_zero_is_none() -> None:
    assert ledger().draw(30, 0) == list(range(30))
    assert ledger().draw(99, 0) == list(range(30))
    assert ledger().draw(0, 0) == []
    assert ReplayBuffer(0).draw(5, 0) == []


def test_dropped_edits_are_not_drawn_again() -> None:
    made = ledger()
    before = list(zip(made.rows, made.loss, strict=True))
    made.drop({0, 3})
    assert list(zip(made.rows, made.loss, strict=True)) == [(r, x) for r, x in before if r.owner not in {0, 3}]


def test_the_state_of_a_ledger_makes_the_same_draws() -> None:
    made, other = ledger(), ReplayBuffer(0)
    other.load(made.state())
    assert [(r.prompt, r.answer, r.owner) for r in other.rows] == [(r.prompt, r.answer, r.owner) for r in made.rows]
    assert other.loss == made.loss
    assert other.draw(10, 7) == made.draw(10, 7)
    empty = ReplayBuffer(0)
    other.load(empty.state())
    assert len(other) == 0
    assert other.state()["shape"].shape == (0, 3)


# ---- prefixes -------------------------------------------------------------------------------------------------------


def test_prefixes_are_different_sentences_chosen_by_the_seed() -> None:
    contexts = prefixed(3, "0/5")
    assert contexts == prefixed(3, "0/5")
    assert contexts != prefixed(3, "0/6")
    assert len(set(contexts)) == 3
    assert all(text.endswith(" {}") and text.removesuffix(" {}") in SENTENCES for text in contexts)
    assert prefixed(0, "0/5") == []
    assert len(prefixed(99, "0")) == len(SENTENCES)


# ---- subjects -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("prompt", ["Arlo and Arlo lie", "In Arlo", "Arlo", "Où est Arlo né"])
def test_subject_tokens_spell_the_last_occurrence(bos: bool, prompt: str) -> None:
    tokenizer = make_tokenizer(bos)
    places = subject_tokens(tokenizer, prompt, "Arlo")
    ids = tokenizer(prompt)["input_ids"]
    assert tokenizer.decode([ids[i] for i in places]) == "Arlo"
    behind = tokenizer.decode(ids[places[-1] + 1 :], skip_special_tokens=True)
    assert behind == prompt[prompt.rfind("Arlo") + 4 :]


@pytest.mark.parametrize("subject", [None, "", "Zork"])
def test_a_subject_that_is_not_there_has_no_tokens(subject: str | None) -> None:
    assert subject_tokens(make_tokenizer(), "In Arlo", subject) == []


class Slow:
    """The byte tokenizer without character offsets."""

    is_fast = False

    def __init__(self, bos: bool) -> None:
        self.fast = make_tokenizer(bos)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": self.fast(text, add_special_tokens=add_special_tokens)["input_ids"]}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.fast, name)


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("prompt", ["In Arlo we", "Arlo we", "See Arlo"])
def test_tokenizers_without_offsets_find_the_same_subject(bos: bool, prompt: str) -> None:
    slow = Slow(bos)
    places = subject_tokens(slow, prompt, "Arlo")
    assert slow.fast.decode([slow.fast(prompt)["input_ids"][i] for i in places]).strip() == "Arlo"


def test_distinctive_tokens_are_those_least_like_the_background() -> None:
    background = F.normalize(torch.eye(6)[:3] + 0.01, dim=-1)
    states = torch.eye(6)[[5, 0, 3, 1, 4, 2]]  # places 2 and 4 are foreign; place 0 too, but it begins the text
    assert distinctive_tokens(states, background, 2) == [2, 4]
    assert distinctive_tokens(states, background, 99) == [1, 2, 3, 4, 5]


def test_without_a_background_the_last_tokens_serve() -> None:
    assert distinctive_tokens(torch.eye(6), torch.zeros(0, 6), 3) == [3, 4, 5]
    assert distinctive_tokens(torch.eye(6)[:1], torch.eye(6), 3) == [0]


def test_pick_subject_keeps_the_last_tokens_of_a_long_subject_and_falls_back() -> None:
    tokenizer = make_tokenizer()
    prompt = "The Vale of Arlo is"
    ids = tokenizer(prompt)["input_ids"]
    states = F.normalize(torch.randn(len(ids), 4), dim=-1)
    background = F.normalize(torch.randn(9, 4), dim=-1)
    places = pick_subject(tokenizer, prompt, "Vale of Arlo", states, background, 4)
    assert tokenizer.decode([ids[i] for i in places]) == "Arlo"
    assert pick_subject(tokenizer, prompt, "Zork", states, background, 8) == distinctive_tokens(states, background, 3)
    assert pick_subject(tokenizer, prompt, None, states, background, 2) == distinctive_tokens(states, background, 2)


# ---- rows -----------------------------------------------------------------------------------------------------------

EDIT = Edit("Arlo is", "big", rephrases=("Arlo was", "Is Arlo", "a", "b"))


@pytest.mark.parametrize(
    ("terminator", "text", "ends"), [("none", " big", False), ("eos", " big", True), ("sentence", " big.", True)]
)
def test_rows_hold_prompt_answer_and_terminator(terminator: str, text: str, ends: bool) -> None:
    tokenizer = make_tokenizer()
    rows = edit_rows(tokenizer, [Edit("x y", "z"), EDIT], terminator)
    assert [row.owner for row in rows] == [0, 1, 1, 1]
    prompts = [tokenizer.decode(row.prompt, skip_special_tokens=True) for row in rows[1:]]
    assert prompts == ["Arlo is", "Arlo was", "Is Arlo"]
    for row in rows[1:]:
        assert row.label == "big"
        assert row.prompt[0] == tokenizer.bos_token_id
        assert (row.answer[-1] == tokenizer.eos_token_id) == ends
        assert tokenizer.decode(row.answer, skip_special_tokens=True) == text


def test_a_sentence_has_one_full_stop_and_no_end_token_that_does_not_exist() -> None:
    tokenizer = make_tokenizer()
    (row,) = encode_rows(tokenizer, ["a"], "b.", 0, "sentence")
    assert tokenizer.decode(row.answer, skip_special_tokens=True) == " b."
    tokenizer.eos_token = None
    (row,) = encode_rows(tokenizer, ["a"], "b", 0, "eos")
    assert tokenizer.decode(row.answer) == " b"


def test_collated_rows_end_together_and_know_where_their_prompts_end() -> None:
    rows = [Row((5, 6, 7), (8,), 4, "a"), Row((9,), (10, 11, 12), 2, "b")]
    batch = collate(rows, 0, torch.device("cpu"), real=1)
    assert batch.input_ids.tolist() == [[5, 6, 7, 8], [9, 10, 11, 12]]
    assert batch.key_positions.tolist() == [2, 0]
    assert batch.labels.tolist() == [[-100, -100, 8], [10, 11, 12]]
    assert batch.weights.tolist() == [1, 0]
    assert batch.owners.tolist() == [4, 2]
    assert batch.answer_width == 3
    shorter = collate([rows[0], Row((9,), (10,), 2, "b")], 0, torch.device("cpu"))
    assert shorter.input_ids.tolist() == [[5, 6, 7, 8], [0, 0, 9, 10]]
    assert shorter.attention_mask.tolist() == [[1, 1, 1, 1], [0, 0, 1, 1]]
    assert shorter.position_ids.tolist() == [[0, 1, 2, 3], [0, 0, 0, 1]]
    assert shorter.key_positions.tolist() == [2, 2]
    assert shorter.weights.tolist() == [1, 1]
