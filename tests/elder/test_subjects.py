"""Where a subject stands in a text."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from elder.subjects import find_subject

CAFE = unicodedata.normalize("NFD", "Café Tam")
PLACES = (
    ("Al, who grew up in Alabama, works as a", "Al", "Al", 0),
    ("Is Ana of the Anatolian plain? Ana is one, said Anatol. She is", "Ana", "Ana", 31),
    ("The US won in RUSSIA and its leader is", "US", "US", 4),
    ("Arlo and Arlo are", "Arlo", "Arlo", 9),
    ("Arlo's river is", "Arlo", "Arlo", 0),
    ("the river of arlo is", "Arlo", "arlo", 13),
    (f"The owner of {CAFE} is", "Café Tam", CAFE, 13),
    ("The owner of Café Tam is", CAFE, "Café Tam", 13),
    ("The cast of ‘Rock ’n’ Roll’ is", "Rock 'n' Roll", "Rock ’n’ Roll", 13),
    ("The band “AC–DC” is", "AC-DC", "AC–DC", 10),
    ("The mayor of New\u00a0Brend is", "New  Brend", "New\u00a0Brend", 13),
    ("法国的首都是", "法国", "法国", 0),
    ("Straße 7 is in", "STRASSE 7", "Straße 7", 0),
    ("서울은", "서울은", "서울은", 0),
)


@pytest.mark.parametrize(("text", "subject", "found", "at"), PLACES)
def test_subjects_are_found_as_whole_words(text: str, subject: str, found: str, at: int) -> None:
    place = find_subject(text, subject)
    assert place is not None
    assert (text[slice(*place)], place[0]) == (found, at)


@pytest.mark.parametrize(
    ("text", "subject"),
    [
        ("Alabama is", "Al"),
        ("RUSSIA is", "US"),
        ("The river is", None),
        ("The river is", " "),
        ("snake_case is", "case"),
        ("nai\u0308 is", "nai"),
        ("Cafés are", "Café"),
        ("naïve is", "nai"),
        ("By which maker was DG 463 built?", "Great Dale 463"),
    ],
)
def test_parts_of_words_are_no_subjects(text: str, subject: str | None) -> None:
    assert find_subject(text, subject) is None


def test_capitals_as_written_come_first() -> None:
    text = "May said that in may she would"
    assert find_subject(text, "May") == (0, 3)


def test_the_place_that_the_dataset_knows_counts() -> None:
    text = "The mother of Ana is the wife of Ana"
    assert find_subject(text, "Ana", 14) == (14, 17)
    assert find_subject(text, "Ana", 15) == (33, 36)  # it does not stand there: the last one is taken
    assert find_subject("Anatolia is", "Ana", 0) == (0, 3)


WORDS = st.text('aB é’"-法ก1_.', max_size=8)


@given(WORDS, WORDS.filter(str.strip), WORDS)
def test_a_place_holds_the_subject_and_nothing_else(before: str, subject: str, after: str) -> None:
    text = f"{before} {subject} {after}"
    found = find_subject(text, subject)
    assert found is not None
    held = text[slice(*found)]
    assert find_subject(held, subject) == (0, len(held))
