"""Files of edits: what is read, and what a user is told when a line is wrong."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from elder.datasets import DATASETS, load_edits
from elder.edit import Edit, Probe, content_id
from elder.errors import DataError, ModelError

FULL = Edit(
    prompt="The mayor of Aldmoor is",
    target="Petra Torwald",
    subject="Aldmoor",
    ground_truth="Imre Wenthorp",
    rephrases=("Who runs Aldmoor?", "Aldmoor elected"),
    locality=(Probe("The mayor of Belport is", "Galen Jorbury"), Probe("A sentence")),
    portability=(Probe("The mayor of Aldmoor was born in", "Foxley"),),
    source="gazette",
    author="ann",
    reason="election",
)


def write(path: Path, *lines: Any) -> Path:
    """A JSONL file of values, or of raw lines when they are text; gzipped when its name says so."""
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def problems_of(source: str, path: Path | None = None, **options: Any) -> list[str]:
    with pytest.raises(DataError) as caught:
        load_edits(source, path, **options)
    return list(caught.value.problems)


@pytest.mark.parametrize("name", ["edits.jsonl", "edits.jsonl.gz"])
def test_an_edit_survives_the_way_through_a_file(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, FULL.to_dict(), "", {"prompt": "A ", "target": " b "})
    edits = load_edits("jsonl", path)
    assert edits == [FULL, Edit("A ", " b", id=content_id("A", "b", None))]
    assert edits.places == (f"{path}:1", f"{path}:3")
    assert load_edits(path) == edits, "a path alone is a source too"


def test_a_json_list_is_read_like_lines(tmp_path: Path) -> None:
    path = tmp_path / "edits.json"
    path.write_text(json.dumps([FULL.to_dict()]))
    assert load_edits("jsonl", path) == [FULL]


def test_every_bad_line_is_named_with_its_number(tmp_path: Path) -> None:
    path = write(
        tmp_path / "edits.jsonl",
        {"prompt": "A", "target": "b"},
        '{"prompt": "A", "target": ',
        {"prompt": "A"},
        {"prompt": "A", "target": "  "},
        {"prompt": "A", "target": "b", "rephrase": []},
        [1],
        {"prompt": 3, "target": "b", "locality": [{"answer": "x"}]},
    )
    problems = problems_of("jsonl", path)
    assert [problem.split(": ")[0] for problem in problems] == [f"{path}:{n}" for n in (2, 3, 4, 5, 6, 7, 7)]
    for problem, said in zip(
        problems,
        ("JSON", "'target' is missing", "'target' is empty", "'rephrase'", "list", "'prompt'", "locality"),
        strict=True,
    ):
        assert said in problem, problem


def test_a_flood_of_problems_is_capped_and_counted(tmp_path: Path) -> None:
    problems = problems_of("jsonl", write(tmp_path / "edits.jsonl", *[{"prompt": "A"}] * 53))
    assert len(problems) == 21
    assert "33 more" in problems[-1]


def test_text_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "edits.jsonl"
    path.write_bytes(b'{"prompt": "A", "target": "b"}\n{"prompt": "\xff", "target": "b"}\n')
    assert problems_of("jsonl", path)[0].startswith(f"{path}:2: not UTF-8")


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("cut.jsonl.gz", gzip.compress(b'{"prompt": "A", "target": "b"}\n' * 99, mtime=0)[:-12], "cannot be read"),
        ("damaged.jsonl.gz", gzip.compress(b"x", mtime=0)[:10] + b"\xff" * 40, "cannot be read"),
        ("plain.jsonl.gz", b'{"prompt": "A"}', "cannot be read"),
        ("lines.json", b'{"prompt": "A"}\n{"prompt": "B"}\n', "should be named .jsonl"),
        ("object.json", b"{}", "expected a JSON list"),
    ],
)
def test_a_file_that_is_no_list_of_records_is_refused(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    (tmp_path / name).write_bytes(content)
    assert said in problems_of("jsonl", tmp_path / name)[0]


def test_the_column_of_a_line_that_breaks_off_is_where_it_ends(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_bytes(b'{"prompt": "A is"\r\n')
    assert "x.jsonl:1: not valid JSON at column 18: " in problems_of("jsonl", tmp_path / "x.jsonl")[0]


def test_a_missing_file_a_missing_path_and_an_unknown_name_are_told_apart(tmp_path: Path) -> None:
    assert "no such file" in problems_of("jsonl", tmp_path / "none.jsonl")[0]
    assert "directory" in problems_of("jsonl", tmp_path)[0]
    assert "give its path" in problems_of("counterfact")[0]
    assert "did you mean 'counterfact'" in problems_of("counterfacts")[0]
    assert "takes no path" in problems_of("world:tiny", tmp_path)[0]
    assert "data.source=jsonl" in problems_of("world:tiny", tmp_path)[0]
    with pytest.raises(ModelError, match="world:small"):
        load_edits("world:smal")


def test_wrong_options_are_all_reported() -> None:
    said = problems_of("world:tiny", order="random", limit=-1, target="old", locality_probes=-2, max_words=0)
    assert len(said) == 5


def test_limit_reads_no_further_and_shuffling_comes_before_it(tmp_path: Path) -> None:
    lines = [{"prompt": f"P{i}", "target": "t"} for i in range(20)]
    path = write(tmp_path / "edits.jsonl", *lines, "no json")
    assert [edit.prompt for edit in load_edits("jsonl", path, limit=3)] == ["P0", "P1", "P2"]
    assert "not valid JSON" in problems_of("jsonl", path, limit=3, order="shuffled")[0]
    write(path, *lines)
    shuffled = load_edits("jsonl", path, order="shuffled", seed=1)
    assert sorted(edit.prompt for edit in shuffled) == sorted(line["prompt"] for line in lines)
    assert shuffled != load_edits("jsonl", path)
    assert load_edits("jsonl", path, limit=5, order="shuffled", seed=1) == shuffled[:5]
    assert load_edits("jsonl", path, order="shuffled", seed=2) != shuffled
    assert all(f":{int(edit.prompt[1:]) + 1}" in place for edit, place in zip(shuffled, shuffled.places, strict=True))


def test_conflicts_can_be_checked_while_loading(tmp_path: Path) -> None:
    path = write(tmp_path / "edits.jsonl", {"prompt": "A", "target": "b"}, {"prompt": "A", "target": "c"})
    assert len(load_edits("jsonl", path)) == 2
    assert f"{path}:2" in problems_of("jsonl", path, conflicts="refuse")[0]
    assert load_edits("jsonl", path, conflicts="last_wins") == [Edit("A", "c")]


def test_every_dataset_has_a_summary_of_one_line() -> None:
    assert {"jsonl", "world:small", "counterfact", "zsre", "hallucination", "scotus"} <= set(DATASETS)
    assert all(summary and "\n" not in summary for summary in DATASETS.values())
