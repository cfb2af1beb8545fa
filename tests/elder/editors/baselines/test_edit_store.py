"""Which edits a text is about: subject word for word, then the overlap of the other words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from elder.edit import Edit
from elder.editors.baselines.edit_store import EditStore, StoredEdit, problems_of
from elder.editors.baselines.words import overlap, words_of
from tests.elder.tiny import EDITS


def store_of(*edits: Edit) -> EditStore:
    store = EditStore()
    store.add([StoredEdit.of(edit, rephrases=True) for edit in edits])
    return store


def found(store: EditStore, text: str, most: int = 9, least: float = 0.5, count: int | None = None) -> list[int]:
    return [one.number for one in store.nearest(text, most, least, len(store.edits) if count is None else count)]


def test_words_are_told_apart_without_capitals_signs_and_spaces() -> None:
    assert words_of("The mayor's town, the TOWN_7") == {"the", "mayor", "s", "town", "7"}
    assert words_of("東京の人 in Tokyo") == {"東", "京", "の", "人", "in", "tokyo"}
    assert words_of("cafe\u0301") == words_of("CAFÉ")
    assert overlap(words_of("a b"), words_of("b c")) == 0.5
    assert overlap(frozenset(), frozenset()) == 1.0


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("The river of Arlo is", [0]),
        ("the RIVER of arlo is", [0]),
        ("Arlo lies on the river", [0]),  # a wording that training sees
        ("By which river is Arlo built? The", [0]),
        ("Who built a town for Arlo? It was", []),
        ("The river of Arlos is", []),
        ("The mayor of Arlo is", [0]),  # words cannot tell: of four, three are shared
        ("The river of Brend is", [1]),
        ("The mayor of Zed is", []),
        ("Arlo", []),
        ("", []),
    ],
)
def test_a_text_is_about_the_edit_whose_words_it_shares(text: str, numbers: list[int]) -> None:
    assert found(store_of(*EDITS), text) == numbers


def test_the_nearest_comes_first_and_of_equals_the_latest() -> None:
    here, there = (Edit(f"The {word} of Arlo is", "x", subject="Arlo") for word in ("river", "mayor"))
    store = store_of(here, there)
    assert found(store, "The mayor of Arlo is") == [1, 0]
    assert found(store, "The mayor of Arlo is", most=1) == [1]
    assert found(store, "The food of Arlo is") == [1, 0]
    assert found(store, "The mayor of Arlo is", least=0.9) == [1]


def test_edits_without_a_subject_are_found_by_any_of_their_words() -> None:
    store = store_of(replace(EDITS[0], subject=None), replace(EDITS[1], subject="Nowhere"))
    assert found(store, "The river of Arlo is", least=0.7) == [0]
    assert found(store, "The river of Brend is", least=0.7) == [1, 0]
    assert found(store, "Tell me", least=0.1) == []


def test_a_later_edit_of_a_prompt_replaces_the_earlier_one_from_then_on() -> None:
    store = store_of(EDITS[0], EDITS[1], replace(EDITS[0], target="Zed", id="again"))
    assert found(store, EDITS[0].prompt) == [2]
    assert found(store, EDITS[0].prompt, count=2) == [0]
    assert found(store, EDITS[1].prompt, count=1) == []
    assert found(store.first(2), EDITS[0].prompt) == [0]


def test_a_store_is_what_its_values_say() -> None:
    store = store_of(*EDITS)
    again = EditStore.from_json(store.to_json())
    assert again.edits == store.edits
    assert found(again, EDITS[3].prompt) == [3]
    assert problems_of(store.to_json()) == []


@pytest.mark.parametrize("bad", [{}, [1], [["a", "b", "c", None]], [["a", "b", 3, None, []]], [["a", "b", "c", 1, []]]])
def test_values_that_are_none_of_a_store_are_found_out(bad: object) -> None:
    assert problems_of(bad)
