"""The reader of JSON: what is taken, and what is refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from elder.errors import DataError, ModelError
from elder.json_text import DEEPEST, MOST_DIGITS, JsonError, check_nested, parse_json, read_json, read_object

REFUSED = {
    '{"a": 1, "b": 2, "a": 3}': "the key 'a' is given twice",
    '{"o": {"a": 1, "a": 1}}': "the key 'a' is given twice",
    "[NaN]": "NaN is no JSON value",
    "[-Infinity]": "-Infinity is no JSON value",
    "[1e999]": "the number 1e999 is too large",
    "[" + "7" * (MOST_DIGITS + 1) + "]": f"a number has {MOST_DIGITS + 1} digits",
    "[" + "7" * 5000 + "]": "a number has 5000 digits",
    "[" * (DEEPEST + 2) + "]" * (DEEPEST + 2): f"nested more than {DEEPEST} deep",
    '{"a":' * 100_000 + "1" + "}" * 100_000: f"nested more than {DEEPEST} deep",
    '["\\ud83d"]': "half a character",
    '{"\\udc00": 1}': "half a character",
    '{\n"a": }': "not valid JSON at line 2, column 6: Expecting value",
    "": "not valid JSON at line 1, column 1",
}


@pytest.mark.parametrize("text", REFUSED, ids=range(len(REFUSED)))
def test_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(JsonError) as caught:
        parse_json(text)
    assert REFUSED[text] in str(caught.value)


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(JsonError, match="not UTF-8 text at byte 3"):
        parse_json(b'["\xff"]')


@pytest.mark.parametrize(
    "text",
    ['["\\ud83d\\ude00 \\u00e9"]', "[1, 2.5, -3e2, true, null]", "[" * DEEPEST + "]" * DEEPEST, '{"a": {"a": 1}}'],
)
def test_what_is_json_is_taken_as_it_is(text: str) -> None:
    import json

    assert (
        parse_json(text) == parse_json(text.encode()) == parse_json(b"\xef\xbb\xbf" + text.encode()) == json.loads(text)
    )


def test_a_file_of_another_program_may_repeat_keys_and_hold_infinity() -> None:
    assert parse_json('{"limits": [0.0, Infinity], "a": 1, "a": 2}', foreign=True) == {
        "limits": [0.0, float("inf")],
        "a": 2,
    }
    with pytest.raises(JsonError, match="nested"):
        parse_json("[" * 100_000, foreign=True)


def test_a_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"a": 1,\n "b" 2}')
    with pytest.raises(DataError, match=r"x\.json:2: not valid JSON at column 6"):
        read_json(path, DataError)
    path.write_text("[1]")
    with pytest.raises(ModelError, match=r"x\.json: expected a JSON object, found list"):
        read_object(path, ModelError)
    with pytest.raises(ModelError, match=r"nowhere: cannot be read: No such file"):
        read_json(tmp_path / "nowhere", ModelError)


def test_values_that_contain_themselves_are_refused() -> None:
    value: list[object] = []
    value.append({"again": value})
    with pytest.raises(JsonError, match="nested"):
        check_nested(value)
