"""Texts that nobody can see or write are refused as prompts and answers, wherever they come from."""

from __future__ import annotations

from pathlib import Path

import pytest

from elder.base import check_edits
from elder.datasets import load_edits
from elder.datasets.stream import validate_stream
from elder.edit import Edit
from elder.errors import DataError, InputError
from elder.paths import user_path
from elder.texts import is_visible, is_writable

UNSEEN = ("\u200b", "\u200b\u2060\ufeff", "\x00\x07", "\u202e", "\u2800", "\u3164", "\u00ad")


@pytest.mark.parametrize("text", UNSEEN)
def test_what_cannot_be_seen_is_refused_by_every_door(text: str, tmp_path: Path) -> None:
    assert not is_visible(text)
    edit = Edit("The mayor of Brend is", text)
    for door in (lambda: check_edits([edit]), lambda: validate_stream([edit])):
        with pytest.raises(DataError, match=r"target'? has only characters"):
            door()
    with pytest.raises(DataError, match="field 'target' has only characters that cannot be seen"):
        Edit.from_dict({"prompt": "The mayor of Brend is", "target": text})


@pytest.mark.parametrize("text", ["a", "0", "!", "\u0301a", "ก็", "क्‍ष", "👩‍👩‍👧", "\ue000", "日"])
def test_what_can_be_seen_is_taken(text: str) -> None:
    assert is_visible(text)
    assert Edit.from_dict({"prompt": "p", "target": text}).target == text


def test_half_characters_are_refused_with_their_place(tmp_path: Path) -> None:
    assert not is_writable("\ud83d")
    assert is_writable("\U0001f600")
    path = tmp_path / "edits.jsonl"
    path.write_text('{"prompt": "a", "target": "b"}\n{"prompt": "c", "target": "\\ud83d"}\n')
    with pytest.raises(DataError, match=r"edits\.jsonl:2: it holds half a character"):
        load_edits(str(path))
    with pytest.raises(DataError, match="half a character"):
        validate_stream([Edit("p", "t", id="1", rephrases=("\udc00",))])


@pytest.mark.parametrize("id", [["a"], {"a": 1}, True, 1.5])
def test_ids_are_texts(id: object) -> None:
    with pytest.raises(DataError, match="field 'id' must be text, found"):
        Edit.from_dict({"prompt": "p", "target": "t", "id": id})
    assert Edit.from_dict({"prompt": "p", "target": "t", "id": 7}).id == "7"


@pytest.mark.parametrize(
    ("text", "said"),
    [("~nobody-of-this-name/x", "no such user"), ("a\0b", "NUL"), ("x" * 300, "too long"), ("\ud83d", "half")],
)
def test_what_cannot_be_a_path_is_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        user_path(text)
    assert user_path("~/x") == Path.home() / "x"
