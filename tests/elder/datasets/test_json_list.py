"""A JSON list is read item by item: the same values, and the same places of errors, wherever it is cut."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from elder.datasets import json_list, load_edits
from elder.datasets.json_list import Whole, list_items
from elder.errors import DataError
from elder.json_text import JsonError

VALUES: list[Any] = [
    {"a": "é\n\"[]{}\\ \u2028", "b": [1, [2, {"c": None}], []]}, "text, ]", 12345678901234567890, -1.5, 1e-7, True, [],
    {}, {"long": "x" * 300},
]  # fmt: skip


@pytest.mark.parametrize("chunk", [1, 2, 3, 7, 64, 1 << 18])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_list_gives_its_items_wherever_it_is_cut(
    monkeypatch: pytest.MonkeyPatch, chunk: int, indent: int | None, ascii_only: bool
) -> None:
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    text = json.dumps(VALUES, indent=indent, ensure_ascii=ascii_only)
    for lead in ("", "\ufeff", " \n"):
        assert list(list_items(io.BytesIO((lead + text + "\n ").encode()))) == VALUES
    assert list(list_items(io.BytesIO(b"[]"))) == list(list_items(io.BytesIO(b" [ ] "))) == []
    assert list(list_items(io.BytesIO(b'{"a": 1}'))) == [Whole({"a": 1})]


WRONG = [
    '[{"a": 1} {"b": 2}]', '[{"a": 1},]', "[{}, \n {x}]", '[{}, "open', "[1, 2", "[", '[{}] [1]', '["\\q"]', "[tru]",
    '[{"a": 1,\n\n "b" 2}]', '{"a": 1}\n{"a": 2}',
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG)
@pytest.mark.parametrize("chunk", [1, 5, 1 << 18])
def test_an_error_has_the_line_that_python_names(monkeypatch: pytest.MonkeyPatch, text: str, chunk: int) -> None:
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    with pytest.raises(json.JSONDecodeError) as wanted:
        json.loads(text)
    with pytest.raises(JsonError) as found:
        list(list_items(io.BytesIO(text.encode())))
    assert found.value.line == wanted.value.lineno
    if "trailing comma" not in found.value.reason:
        assert abs((found.value.column or 0) - wanted.value.colno) <= 1


def test_bytes_that_are_no_text_are_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    for chunk in (1, 3, 1 << 18):
        monkeypatch.setattr(json_list, "CHUNK", chunk)
        with pytest.raises(JsonError, match="not UTF-8 text at byte 9"):
            list(list_items(io.BytesIO('["é", "'.encode() + b'\xff"]')))


def test_a_limit_reads_no_further_and_a_long_file_is_not_held(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    record = json.dumps({"prompt": "P%d", "target": "x" * 1000})
    path.write_text("[" + ",".join(record.replace("%d", str(i)) for i in range(2000)) + ", broken]")
    assert len(load_edits("jsonl", path, limit=20)) == 20
    with pytest.raises(DataError, match=r"edits\.json:1: not valid JSON at column \d+"):
        load_edits("jsonl", path)
    import tracemalloc

    with path.open("rb") as handle:
        items = list_items(handle)
        tracemalloc.start()
        for _ in range(2000):
            next(items)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 2_000_000, "of 2 MB of text only a window is held"


def test_a_key_that_is_given_twice_is_refused_with_its_item(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text('[{"prompt": "A", "target": "b"}, {"prompt": "A", "target": "b", "target": "c"}]')
    with pytest.raises(DataError, match=r"edits\.json\[1\]: the key 'target' is given twice"):
        load_edits("jsonl", path)
