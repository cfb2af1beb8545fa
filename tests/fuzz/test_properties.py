"""Readers on values and texts that hypothesis makes up: they give back what was written, or refuse it."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from elder.edit import Edit, dataset_digest
from elder.errors import ConfigError, DataError
from elder.json_text import JsonError, parse_json
from elder.pipelines.config.document import Document
from elder.pipelines.config.files import parse_document, with_overrides
from elder.pipelines.config.run import resolve
from elder.redact import redact
from elder.registry import METHODS, make_options

texts = st.text(max_size=20) | st.sampled_from(["", "\u200b", "\ud83d", "1e999", "NaN", "https://u:pw@host"])
scalars = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4))
fields = st.sampled_from(
    ["prompt", "target", "subject", "id", "rephrases", "locality", "portability", "ground_truth", "source", "rephrase"]
)
probes = st.lists(st.dictionaries(st.sampled_from(["prompt", "answer", "x"]), values, max_size=3), max_size=3)
tried = settings(derandomize=True, deadline=None, max_examples=150)


@given(values)
@tried
def test_json_gives_back_what_was_written_or_refuses_it(value: Any) -> None:
    text = json.dumps(value)
    try:
        assert json.dumps(parse_json(text)) == text
    except JsonError:
        assert any(word in text for word in ("NaN", "Infinity", "\\ud"))


@given(st.text() | st.binary())
@tried
def test_any_text_is_json_or_refused(text: str | bytes) -> None:
    try:
        json.dumps(parse_json(text)).encode()
    except JsonError as error:
        str(error).encode()


@given(st.text(alphabet="abc:-[]{}&*!<>#|'\"\\u01.e~%@\n\t ,?=\ud83d\u200b"))
@tried
def test_any_text_is_a_config_or_refused(text: str) -> None:
    try:
        resolve(parse_document(text, "c.yaml")).digest()
    except ConfigError as error:
        str(error).encode()


@given(st.lists(st.tuples(st.text(alphabet="abc.model=_editor", max_size=12), texts), max_size=3))
@tried
def test_any_overrides_are_taken_or_refused(given: list[tuple[str, str]]) -> None:
    try:
        with_overrides(Document({"model": {}}, "c.yaml"), [f"{key}={text}" for key, text in given])
    except ConfigError as error:
        str(error).encode()


@given(st.dictionaries(fields, values | probes | texts, max_size=8))
@tried
def test_any_record_is_an_edit_or_refused(record: dict[str, Any]) -> None:
    try:
        edit = Edit.from_dict(record)
    except DataError as error:
        str(error).encode()
        return
    assert Edit.from_dict(edit.to_dict()) == edit
    assert dataset_digest([edit])


@given(st.sampled_from(sorted(METHODS)), st.data())
@tried
def test_any_options_are_taken_or_refused(method: str, data: st.DataObject) -> None:
    names = sorted(type(make_options(method, {})).model_fields)
    given = data.draw(st.dictionaries(st.sampled_from(names), values, max_size=4))
    try:
        options = make_options(method, given)
    except ConfigError as error:
        str(error).encode()
        return
    json.dumps(options.model_dump(mode="json"), allow_nan=False)
    assert make_options(method, options.model_dump()) == options


@given(st.text())
@tried
def test_redacting_twice_is_redacting_once(text: str) -> None:
    assert redact(redact(text)) == redact(text)
