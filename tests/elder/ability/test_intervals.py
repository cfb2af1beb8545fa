"""Intervals: known values, what they cover, and that they say something where nothing changed."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from elder.ability.intervals import Scores, agresti_min, difference, mcnemar, wilson, with_interval


def shares(values: list[float]) -> Scores:
    return Scores(tuple(values), (1.0,) * len(values), ("",) * len(values))


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),  # of scipy 1.17.1: binomtest(right, count).proportion_ci(method="wilson")
    [
        (0, 50, 0.0, 0.07134759913335872),
        (50, 50, 0.9286524008666412, 1.0),
        (7, 50, 0.06950833427016292, 0.26186193710585537),
        (1, 3, 0.06149194472039626, 0.7923403991979523),
    ],
)
def test_wilson_is_that_of_scipy(right: int, count: int, low: float, high: float) -> None:
    assert wilson(right, count) == pytest.approx((low, high), abs=1e-12)


@pytest.mark.parametrize(
    ("gained", "lost", "p"),  # of scipy 1.17.1: binomtest(gained, gained + lost).pvalue
    [(0, 0, 1.0), (5, 0, 0.0625), (0, 5, 0.0625), (2, 9, 0.0654296875), (4, 4, 1.0)],
)
def test_mcnemar_is_an_exact_binomial_test(gained: int, lost: int, p: float) -> None:
    assert mcnemar(gained, lost) == pytest.approx(p)


def test_no_change_on_few_items_is_not_no_change() -> None:
    low, high = agresti_min(0, 0, 50)
    assert low == -high
    assert 0.03 < high < 0.06  # the rule of three says 3/50
    assert agresti_min(0, 0, 5000)[1] < 0.001


def test_the_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says() -> None:
    source, truth, covered, runs = random.Random(0), 0.15 - 0.05, 0, 1000
    for _ in range(runs):
        drawn = source.choices((1, -1, 0), weights=(0.15, 0.05, 0.80), k=100)
        low, high = agresti_min(drawn.count(1), drawn.count(-1), 100)
        covered += low <= truth <= high
    assert 0.93 <= covered / runs <= 0.99


def test_the_bootstrap_covers_too_and_pairs_what_belongs_together() -> None:
    source, covered, runs = np.random.default_rng(0), 0, 200
    for _ in range(runs):
        items = source.uniform(size=80)
        before, after = shares([*items]), shares([*(items * 0.9 + source.normal(0, 0.02, 80))])
        found = difference(before, after)
        assert found["method"] == "paired bootstrap"
        assert found["high"] - found["low"] < 0.03  # of unpaired scores it would be some 0.18
        covered += found["low"] <= -0.05 <= found["high"]
    assert 0.88 <= covered / runs <= 0.99


def test_a_difference_counts_who_gained_and_lost() -> None:
    found = difference(shares([1, 1, 0, 0, 1]), shares([1, 0, 0, 1, 0]))
    assert (found["value"], found["gained"], found["lost"], found["p"]) == (pytest.approx(-0.2), 1, 2, 1.0)
    assert found["low"] < -0.2 < found["high"]


def test_groups_count_alike_and_tokens_by_their_number() -> None:
    grouped = Scores((1.0, 1.0, 1.0, 0.0), (1.0,) * 4, ("PER", "PER", "PER", "LOC"))
    assert grouped.value == 0.5
    assert not grouped.right_or_wrong
    text = Scores((10.0, 40.0), (10.0, 10.0), ("", ""), perplexity=True)
    assert text.value == pytest.approx(math.exp(2.5))
    found = with_interval(text)
    assert found["low"] == pytest.approx(math.e)
    assert found["high"] == pytest.approx(math.exp(4))


def test_scores_of_other_items_are_not_compared() -> None:
    with pytest.raises(ValueError, match="not of the same items"):
        difference(shares([1.0]), shares([1.0, 0.0]))
