"""A stream as a whole: repeats, contradictions, ids and lengths."""

from __future__ import annotations

import pytest

from elder.datasets import EditStream, validate_stream
from elder.edit import Edit, Probe
from elder.errors import DataError


class Words:
    """A tokenizer that makes one token of each word, and puts one in front."""

    def __call__(self, texts: list[str]) -> dict[str, list[list[int]]]:
        return {"input_ids": [[0, *range(len(text.split()))] for text in texts]}


def problems_of(edits: list[Edit], **options: object) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        validate_stream(edits, **options)  # type: ignore[arg-type]
    return caught.value.problems


def test_a_clean_stream_passes_unchanged() -> None:
    edits = EditStream([Edit("A", "b"), Edit("C", "b")], ["f:1", "f:2"])
    for policy in ("refuse", "last_wins"):
        valid = validate_stream(edits, policy)
        assert valid == edits
        assert valid.places == edits.places


def test_the_empty_stream_and_an_unknown_policy_are_refused() -> None:
    assert "empty" in problems_of([])[0]
    assert "first_wins" in problems_of([Edit("A", "b")], conflicts="first_wins")[0]


def test_contradictions_and_repeats_name_both_places() -> None:
    edits = EditStream([Edit("A", "b"), Edit("A", "c"), Edit("D", "e"), Edit("D", "e")], ["f:1", "f:5", "f:7", "f:9"])
    contradiction, repeat = problems_of(edits)
    assert contradiction.startswith("f:5")
    assert "contradicts f:1" in contradiction
    assert "last_wins" in contradiction
    assert repeat.startswith("f:9")
    assert "repeats f:7" in repeat


def test_without_places_the_number_is_named() -> None:
    assert problems_of([Edit("A", "b"), Edit("A", "c")])[0].startswith("edit 2")


def test_last_wins_keeps_the_last_where_it_stands() -> None:
    edits = [Edit("A", "1"), Edit("B", "1"), Edit("A", "2"), Edit("C", "1"), Edit("B", "1"), Edit("A", "3")]
    valid = validate_stream(edits, "last_wins")
    assert valid == [Edit("C", "1"), Edit("B", "1"), Edit("A", "3")]
    assert valid.places == ("edit 4", "edit 5", "edit 6")


@pytest.mark.parametrize("policy", ["refuse", "last_wins"])
def test_an_id_that_comes_twice_is_refused(policy: str) -> None:
    said = problems_of([Edit("A", "b", id="x"), Edit("C", "d", id="x")], conflicts=policy)
    assert len(said) == 1
    assert "'x'" in said[0]


def test_every_text_longer_than_the_context_is_named() -> None:
    edits = [
        Edit("one two", "three", rephrases=("a b c d e f", "a")),
        Edit("a b c", "d e", locality=(Probe("a b c d e f"), Probe("a", "b")), portability=(Probe("a b c", "d e f"),)),
    ]
    assert validate_stream(edits, tokenizer=Words(), max_tokens=9) == edits
    said = problems_of(edits, tokenizer=Words(), max_tokens=7)
    assert [problem.split(" are ")[0] for problem in said] == [
        "edit 1: rephrases[0] and target",
        "edit 2: locality[0]",
        "edit 2: portability[0]",
    ]
    assert "9 tokens" in said[0]


def test_all_kinds_of_problems_come_together() -> None:
    edits = [Edit("A", "b"), Edit("A", "c"), Edit("C", "d", id="x"), Edit("D", "d", id="x"), Edit("a b c d", "e")]
    said = problems_of(edits, tokenizer=Words(), max_tokens=6)
    assert len(said) == 3


def test_a_stream_needs_a_place_for_each_edit() -> None:
    with pytest.raises(ValueError, match="2 edits but 1 places"):
        EditStream([Edit("A", "b"), Edit("C", "b")], ["f:1"])


def test_texts_that_are_too_long_can_be_left_out_and_are_listed() -> None:
    edits = EditStream([Edit("a b c d", "e"), Edit("A", "b"), Edit("a b c d e", "f")], ["f:1", "f:2", "f:3"])
    left = validate_stream(edits, tokenizer=Words(), max_tokens=5, unusable="skip")
    assert (list(left), left.places) == ([edits[1]], ("f:2",))
    assert [line.split(":")[1] for line in left.skipped] == ["1", "3"]
    assert "7 tokens long" in left.skipped[0]
    with pytest.raises(DataError, match="none of the 2 edits can be used"):
        validate_stream(edits.take([0, 2]), tokenizer=Words(), max_tokens=5, unusable="skip")
    assert "keep" in problems_of([Edit("A", "b")], unusable="keep")[0]
    assert validate_stream(left).skipped == left.skipped


@pytest.mark.parametrize("text", ["\u200b", "\ufeff\u2060", "\x07", "\u200e\u200f"])
def test_texts_that_nobody_can_see_are_refused_or_left_out(text: str) -> None:
    """Our own format refuses them as it is read; a published layout and edits from code come this far."""
    edits = [Edit("A", "b"), Edit("C", text), Edit(text, "d")]
    assert problems_of(edits) == (
        f"edit 2: field 'target' has only characters that cannot be seen: {text!a}",
        f"edit 3: field 'prompt' has only characters that cannot be seen: {text!a}",
    )
    assert list(validate_stream(edits, unusable="skip")) == edits[:1]
