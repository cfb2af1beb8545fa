"""Every cell of a table, and every text of a JSON file, is the text that is there: nothing is guessed."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from elder.datasets import load_edits
from elder.errors import DataError

TEXTS = [
    "007", "7", "1.10", "1e5", "NA", "N/A", "nan", "None", "null", "true", "False", "1999-05-04", "1999-05-04T10:00:00",
    '["a", "b"]', '{"a": 1}', '"quoted"', "1,5", "x\ty", "two\nlines", "1_000", "0x1F", "-0", "é", "it's",
]  # fmt: skip
"""Targets that a reader which guesses types would change; each in an edit of its own."""


def rows() -> list[dict[str, str]]:
    return [{"prompt": f"The code of {i} is", "target": text, "subject": str(i)} for i, text in enumerate(TEXTS)]


def as_csv(path: Path, delimiter: str = ",") -> Path:
    with path.open("w", newline="", encoding="utf-8") as handle:
        writer = csv.DictWriter(handle, ["prompt", "target", "subject"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows())
    return path


def as_lines(path: Path, values: list[Any] | None = None) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in (rows() if values is None else values)), "utf-8")
    return path


def as_parquet(path: Path) -> Path:
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pytest.importorskip("pyarrow").Table.from_pylist(rows()), path)
    return path


def as_arrow(path: Path, stream: bool) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.Table.from_pylist(rows())
    make = pyarrow.ipc.new_stream if stream else pyarrow.ipc.new_file
    with path.open("wb") as handle, make(handle, table.schema) as writer:
        writer.write_table(table, max_chunksize=5)
    return path


def written(folder: Path, kind: str) -> Path:
    if kind == "csv":
        return as_csv(folder / "edits.csv")
    if kind == "csv.gz":
        packed = folder / "edits.csv.gz"
        packed.write_bytes(gzip.compress(as_csv(folder / "plain.csv").read_bytes()))
        return packed
    if kind == "tsv":
        return as_csv(folder / "edits.tsv", "\t")
    if kind == "parquet":
        return as_parquet(folder / "edits.parquet")
    if kind.startswith("arrow"):
        return as_arrow(folder / "edits.arrow", kind == "arrow stream")
    if kind == "json":
        (folder / "edits.json").write_text(json.dumps(rows()), "utf-8")
        return folder / "edits.json"
    return as_lines(folder / "edits.jsonl")


@pytest.mark.parametrize("kind", ["csv", "csv.gz", "tsv", "parquet", "arrow file", "arrow stream", "json", "jsonl"])
@pytest.mark.parametrize("source", ["a path", "jsonl", "hub"])
def test_a_cell_is_the_text_that_is_there(tmp_path: Path, kind: str, source: str) -> None:
    path = written(tmp_path, kind)
    if source == "a path":
        edits = load_edits(path)
    else:
        edits = load_edits("hub:someone/edits" if source == "hub" else source, path)
    assert [edit.target for edit in edits] == TEXTS
    assert [edit.subject for edit in edits] == [str(i) for i in range(len(TEXTS))]


@pytest.mark.parametrize("ending", ["jsonl", "json", "csv", "tsv"])
def test_a_directory_of_data_files_is_read_without_guessing(tmp_path: Path, ending: str, monkeypatch: Any) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    folder.mkdir()
    lists = [{"prompt": "A list is", "target": "x", "subject": "y", "rephrases": ["One list is"]}]
    if ending.startswith("json"):  # one list in a column, and a second file: the datasets library would change texts
        as_lines(folder / f"train-1.{ending}", rows() + lists)
        as_lines(folder / f"train-2.{ending}", [{"prompt": "The day is", "target": "1999-05-04"}])
    else:
        as_csv(folder / f"train.{ending}", "\t" if ending == "tsv" else ",")
    edits = load_edits("hub:someone/edits", folder)
    assert [edit.target for edit in edits[: len(TEXTS)]] == TEXTS
    if ending.startswith("json"):
        assert [edit.target for edit in edits[len(TEXTS) :]] == ["x", "1999-05-04"]
        assert edits.places[-1] == f"{folder}[train] row {len(TEXTS) + 1}"
        assert [edit.target for edit in load_edits("hub:x", folder, split="train[1:3]")] == TEXTS[1:3]
        with pytest.raises(DataError, match=r"split 'dev'.*known: train"):
            load_edits("hub:x", folder, split="dev")


def test_a_column_of_json_in_a_saved_dataset_keeps_its_texts(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    cells = ["007", "null", "Paris", "1999", "NA", ["a"]]
    table = datasets.Dataset.from_dict(
        {"prompt": [f"P{i}" for i in range(6)], "target_new": cells},
        features=datasets.Features({"prompt": datasets.Value("string"), "target_new": datasets.Json()}),
    )
    table.save_to_disk(tmp_path / "saved")
    edits = load_edits("hub:x", tmp_path / "saved")
    assert [edit.target for edit in edits] == ["007", "null", "Paris", "1999", "NA", "a"]


def test_a_number_in_json_is_taken_as_written_in_published_layouts_and_refused_in_ours(tmp_path: Path) -> None:
    path = tmp_path / "numbers.jsonl"
    path.write_text(
        '{"prompt": "A", "target_new": 1.10}\n{"prompt": "B", "target_new": 7}\n{"prompt": "C", "target_new": 1e5}\n'
    )
    assert [edit.target for edit in load_edits("knowedit", path)] == ["1.10", "7", "1e5"]
    path.write_text('{"prompt": "A", "target": 1.10}\n{"prompt": 7, "target": true}\n')
    with pytest.raises(DataError) as caught:
        load_edits("jsonl", path)
    assert [problem.removeprefix(str(path)) for problem in caught.value.problems] == [
        ":1: field 'target' must be text, found float; write it in quotes: \"1.10\"",
        ":2: field 'prompt' must be text, found int; write it in quotes: \"7\"",
        ":2: field 'target' must be text, found bool; write it in quotes: \"true\"",
    ]


@pytest.mark.parametrize("source", ["knowedit", "zsre"])
def test_a_boolean_in_json_is_refused_with_a_hint(tmp_path: Path, source: str) -> None:
    path = as_lines(tmp_path / "x.jsonl", [{"prompt": "A", "src": "A", "alt": True, "target_new": True}])
    with pytest.raises(DataError, match=r'must be text, found bool; write it in quotes: "true"'):
        load_edits(source, path)


def test_typed_columns_of_parquet_are_refused_where_their_text_is_not_known(tmp_path: Path) -> None:
    pyarrow, parquet = (pytest.importorskip(name) for name in ("pyarrow", "pyarrow.parquet"))
    path = tmp_path / "typed.parquet"
    table = pyarrow.Table.from_pylist([{"prompt": "A", "target_new": datetime.date(1999, 5, 4)}])
    parquet.write_table(table, path)
    with pytest.raises(DataError, match=r"row 0: field 'target_new' must be text, found date; write the column as"):
        load_edits(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("prompt,target\nA,b,c\nC,d\n", r"x\.csv:2, row 0: 3 cells, but the header names 2"),
        ("prompt,target\nA,b\nC\n", r"x\.csv:3, row 1: 1 cells"),
        ("prompt,prompt\nA,b\n", r"x\.csv:1: the header names columns twice: prompt"),
        ('prompt,target\nA,"b" c\n', r"x\.csv:2: cannot be read: .* quotes inside of it are doubled"),
        ('prompt,target\nA,"b\n', r"x\.csv:\d: cannot be read"),
        ("prompt,target\nA,\n", r"x\.csv:2, row 0: field 'target' is missing"),
        ('prompt,target\n"A\nB",c\nD,\n', r"x\.csv:4, row 1: field 'target' is missing"),
    ],
)
def test_what_is_no_table_is_named_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=said):
        load_edits("jsonl", path)


def test_a_damaged_arrow_file_is_refused_before_its_offsets_are_followed(tmp_path: Path) -> None:
    """They lead out of the file; followed, they end the process."""
    path = as_arrow(tmp_path / "edits.arrow", stream=False)
    content = path.read_bytes()
    offsets = struct.pack("<iiii", 0, 16, 32, 48)  # of the prompts of one batch, all of them equally long
    assert offsets in content
    path.write_bytes(content.replace(offsets, struct.pack("<iiii", 0, 16, 2**31 - 8, 2**31 - 1)))
    with pytest.raises(DataError, match="cannot be loaded"):
        load_edits(path)


@pytest.mark.parametrize("said", ['{"info": {"features": 1}}', '{"info": []}', "[" * 100_000, "x"])
def test_odd_words_about_the_classes_of_a_table_are_passed_over(tmp_path: Path, said: str) -> None:
    path = as_parquet(tmp_path / "edits.parquet")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(parquet.read_table(path).replace_schema_metadata({"huggingface": said}), path)
    assert [edit.target for edit in load_edits(path)] == TEXTS


def test_a_class_without_a_name_is_refused(tmp_path: Path) -> None:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pyarrow.table({"prompt": ["A is", "B is"], "target": [0, 1]})
    for names, targets in ((["x", "y"], ["x", "y"]), (["x"], None)):
        features = {"target": {"_type": "ClassLabel", "names": names}}
        said = {"huggingface": json.dumps({"info": {"features": features}})}
        parquet.write_table(table.replace_schema_metadata(said), tmp_path / "edits.parquet")
        if targets:
            assert [edit.target for edit in load_edits(tmp_path / "edits.parquet")] == targets
            continue
        with pytest.raises(DataError, match="column 'target': class 1, but only 1 have names"):
            load_edits(tmp_path / "edits.parquet")


def test_a_header_of_many_columns_is_read_in_no_time(tmp_path: Path) -> None:
    header = ",".join(["prompt", "target", *(f"c{i}" for i in range(100_000))])
    (tmp_path / "edits.csv").write_text(f"{header}\nA is,x\n")
    begin = time.perf_counter()
    with pytest.raises(DataError):
        load_edits(tmp_path / "edits.csv")
    assert time.perf_counter() - begin < 10  # minutes, when each name was looked for among all


def test_a_table_that_is_not_utf8_or_not_there(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("prompt,target\nA,b\nÄ,c\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"x\.csv:3: not UTF-8"):
        load_edits(path)
    for name in ("none.csv", "none.parquet"):
        with pytest.raises(DataError, match="no such file"):
            load_edits(tmp_path / name)
    (tmp_path / "x.xlsx").write_bytes(b"")
    with pytest.raises(DataError, match=r"unknown ending '\.xlsx'"):
        load_edits("hub:x", tmp_path / "x.xlsx")


def test_a_long_cell_and_a_byte_order_mark(tmp_path: Path) -> None:
    path = tmp_path / "long.csv"
    path.write_text("\ufeffprompt,target\nA," + "x" * 200_000 + "\n", encoding="utf-8")
    assert len(load_edits(path)[0].target) == 200_000


def test_lengths_that_no_memory_holds_are_a_damaged_file(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    path, table = tmp_path / "edits.arrow", pyarrow.Table.from_pylist([{"prompt": "A", "target": "b"}])
    with path.open("wb") as handle, pyarrow.ipc.new_stream(handle, table.schema) as writer:
        writer.write_table(table)
    whole, taken = path.read_bytes(), 0
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + b"\x49" + whole[at + 1 :])
        try:
            load_edits("jsonl", path)
            taken += 1
        except DataError:
            pass
    assert 0 < taken < len(whole)
