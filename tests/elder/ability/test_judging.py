"""What answers are worth."""

from __future__ import annotations

import random

import pytest

from elder.ability.item import Item
from elder.ability.judging import first_number, names_all, rouge, says_any


@pytest.mark.parametrize(
    ("said", "gold", "worth"),
    [
        (" 18\n", "18", 1), (" 18.00 dollars", "18", 1), (" $1,080.", "1080", 1), (" -3", "-3", 1),
        (" 1080", "1,080", 1), (" 118", "18", 0), (" 180", "18", 0), (" eighteen", "18", 0), ("", "18", 0),
        (" 3", "-3", 0), (" 2.5", "2", 0), (" 17 or 18", "18", 0),
    ],
)  # fmt: skip
def test_the_first_number_counts(said: str, gold: str, worth: float) -> None:
    assert first_number(said, Item("", (gold,))) == worth


@pytest.mark.parametrize(
    ("said", "worth"),
    [("\nAnswer: The Pike, of course", 1), (" a carp or PIKE.", 1), (" pikes", 0), (" red", 0), (" the red carp", 1)],
)
def test_any_words_in_a_row_may_be_the_answer(said: str, worth: float) -> None:
    assert says_any(said, Item("", ("Pike", "red carp"))) == worth


def test_an_answer_that_normalises_to_nothing_is_never_found() -> None:
    assert says_any("anything", Item("", ("The",))) == 0


def test_entities_count_by_share_and_as_written() -> None:
    item = Item("", ("Ann Lee", "Bo"), group="PER")
    assert [names_all(said, item) for said in ("Ann Lee, Bo", "Bo", "ann lee", "")] == [1.0, 0.5, 0.0, 0.0]


def test_rouge_by_hand() -> None:
    # words: a b c d against a c d e: three of four shared, one of three pairs ('c d'), subsequence a c d
    assert rouge("A, b c d!", Item("", ("a c d e",))) == pytest.approx((0.75 + 1 / 3 + 0.75) / 3)
    assert rouge("", Item("", ("a",))) == rouge("b", Item("", ("a",))) == 0.0
    assert rouge("one two", Item("", ("one two",))) == 1.0


def test_rouge_is_that_of_the_library() -> None:
    scorer = pytest.importorskip("rouge_score.rouge_scorer")
    theirs = scorer.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=False)
    source = random.Random(0)
    words = ["the", "cat", "sat", "on", "a", "mat,", "Mat-5!"]
    for _ in range(200):
        told, wanted = (" ".join(source.choices(words, k=source.randint(2, 9))) for _ in range(2))
        expected = sum(one.fmeasure for one in theirs.score(wanted, told).values()) / 3
        assert rouge(told, Item("", (wanted,))) == pytest.approx(expected)


def test_a_word_that_is_said_again_and_again_counts_as_often_as_it_is_wanted() -> None:
    # ROUGE-1 and ROUGE-L: one of three words said, one of two wanted; ROUGE-2: nothing
    assert rouge("the the the", Item("", ("the cat",))) == pytest.approx((0.4 + 0 + 0.4) / 3)
