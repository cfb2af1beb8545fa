"""A stream that is read edit by edit is checked like one that is held: the same words, the same digest."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from elder.datasets import EditReader, EditStream, check_stream, load_edits, open_edits, validate_stream
from elder.datasets.stream_check import CheckedStream
from elder.edit import dataset_digest
from elder.errors import DataError


def write(path: Path, records: list[Any]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in records))
    return path


def reader(path: Path, **options: Any) -> Callable[[], EditReader]:
    return lambda: open_edits("jsonl", path, **options)


def words(texts: list[str]) -> dict[str, list[list[str]]]:
    return {"input_ids": [text.split() for text in texts]}


def both(path: Path, conflicts: str, **options: Any) -> list[Any]:
    """What is found by holding the stream, and by reading it: digests, or problems."""
    found: list[Any] = []
    for check in (
        lambda: dataset_digest(validate_stream(load_edits("jsonl", path), conflicts, **options)),
        lambda: check_stream(reader(path), conflicts, **options).digest,
    ):
        try:
            found.append(check())
        except DataError as error:
            found.append(error.problems)
    return found


def edit(prompt: str, target: str = "t", **more: Any) -> dict[str, Any]:
    return {"prompt": prompt, "target": target, **more}


STREAMS: dict[str, list[Any]] = {
    "clean": [edit(f"P{i}") for i in range(1203)],
    "repeated": [edit("A"), edit("B"), edit("A"), edit("B", "u"), edit("A")],
    "far apart": [edit("A"), *(edit(f"P{i}") for i in range(1100)), edit("A", "u")],
    "same ids": [edit("A", id="1"), edit("B", id="2"), edit("C", id="1")],
    "replaced ids": [edit("A", id="1"), edit("B", id="1"), edit("A", id="3")],
    "too long": [edit("A"), edit("one two three four five"), edit("B", rephrases=["a b c d e f", "x"])],
    "everything": [edit("A", id="1"), edit("A", "u"), edit("B", id="1"), edit("one two three four five six seven")],
    "a flood": [edit(f"P{i % 40}", str(i)) for i in range(120)],
    "broken": [edit("A"), "{", edit("A"), {"prompt": "x"}],
    "floods of faults": [{"prompt": str(i)} for i in range(60)],
}


@pytest.mark.parametrize("conflicts", ["refuse", "last_wins"])
@pytest.mark.parametrize("name", STREAMS)
def test_it_finds_what_the_whole_stream_shows(tmp_path: Path, name: str, conflicts: str) -> None:
    path = write(tmp_path / "edits.jsonl", STREAMS[name])
    held, read = both(path, conflicts, tokenizer=words, max_tokens=5)
    assert read == held
    mended = ("repeated", "far apart", "replaced ids", "a flood") if conflicts == "last_wins" else ()
    assert isinstance(held, str) == (name in ("clean", *mended)), held


@pytest.mark.parametrize("name", ["clean", "too long", "broken last", "nothing usable", "all too long", "repeated"])
def test_what_is_left_out_is_the_same_read_or_held(tmp_path: Path, name: str) -> None:
    records = {
        **STREAMS,
        "broken last": [edit("A"), "{", {"prompt": "x"}, edit("one two three four five"), edit("B")],
        "nothing usable": ["{", {"prompt": "x"}],
        "all too long": [edit("one two three four five"), edit("one two three four six")],
    }[name]
    path = write(tmp_path / "edits.jsonl", records)
    found: list[Any] = []
    for check in (
        lambda: _held(validate_stream(load_edits("jsonl", path, unusable="skip"), "refuse", words, 5, "skip")),
        lambda: _read(check_stream(reader(path, unusable="skip"), "refuse", words, 5, unusable="skip")),
    ):
        try:
            found.append(check())
        except DataError as error:
            found.append(error.problems)
    assert found[0] == found[1]
    counts = {"clean": (1203, 0), "too long": (1, 2), "broken last": (2, 3)}
    assert (found[0][:2] == counts[name]) if name in counts else all(isinstance(line, str) for line in found[0])


def _held(stream: EditStream) -> tuple[Any, ...]:
    return len(stream), len(stream.skipped), dataset_digest(stream), stream.skipped


def _read(found: CheckedStream) -> tuple[Any, ...]:
    return found.edits, len(found.skipped), found.digest, found.skipped


def test_the_limit_counts_usable_edits_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "edits.jsonl", ["{", edit("A"), {"prompt": "x"}, edit("B"), edit("C")])
    edits = load_edits("jsonl", path, limit=2, unusable="skip")
    assert [one.prompt for one in edits] == ["A", "B"]
    assert [line.split(": ")[0] for line in edits.skipped] == [f"{path}:1", f"{path}:3"]
    assert edits.reading is not None
    assert edits.reading.left_out == {"records that cannot be edited": 2}
    found = check_stream(reader(path, limit=2, unusable="skip"), unusable="skip")
    assert (found.edits, found.skipped, found.reading) == (2, edits.skipped, edits.reading)
    with pytest.raises(DataError, match=":1: not valid JSON"):
        load_edits("jsonl", path, limit=1)
    with pytest.raises(DataError, match="unusable must be one of"):
        open_edits("jsonl", path, unusable="keep")


def test_another_check_may_leave_edits_out(tmp_path: Path) -> None:
    path = write(tmp_path / "edits.jsonl", [edit(f"P{i}") for i in range(3)])
    found = check_stream(reader(path), also=lambda edits: {1: "no"}, unusable="skip")
    assert (found.edits, found.skipped) == (2, (f"{path}:2: no",))
    assert found.reading.left_out == {"edits that cannot be made": 1}
    with pytest.raises(DataError, match="none of the 3 edits can be used"):
        check_stream(reader(path), also=lambda edits: dict.fromkeys(range(len(edits)), "no"), unusable="skip")


def test_what_is_replaced_is_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "edits.jsonl", [edit("A", locality=[{"prompt": "x"}]), edit("B"), edit("A", "u")])
    found = check_stream(reader(path), "last_wins")
    assert found.edits == 2
    assert found.reading.left_out == {
        "edits that a later one of the same prompt replaces (last_wins)": 1, "probes of these": 1,
    }  # fmt: skip


def test_another_check_sees_all_edits_with_their_places_and_speaks_last(tmp_path: Path) -> None:
    path = write(tmp_path / "edits.jsonl", [edit(f"P{i}") for i in range(1100)])
    seen: list[str] = []
    counts: list[int] = []

    def check(edits: Any) -> None:
        seen.extend(edits.places)
        raise DataError([f"{edits.places[0]}: no"])

    with pytest.raises(DataError) as caught:
        check_stream(reader(path), also=check, progress=counts.append)
    assert seen == [f"{path}:{i + 1}" for i in range(1100)]
    assert caught.value.problems == (f"{path}:1: no", f"{path}:501: no", f"{path}:1001: no")
    assert counts == list(range(1, 1101))
    write(path, [edit("A"), edit("A")])
    with pytest.raises(DataError, match="repeats"):
        check_stream(reader(path), also=check)


def test_a_held_stream_is_checked_with_its_count(tmp_path: Path) -> None:
    path = tmp_path / "fever.jsonl"
    write(path, [{"claim": f"c{i}", "label": "SUPPORTS", "evidence": "x"} for i in range(9)])
    edits = load_edits("fever", path, order="shuffled", seed=1, limit=4)
    found = check_stream(lambda: EditReader.held(edits))
    assert (found.edits, found.digest) == (4, dataset_digest(edits))
    assert found.reading.unread == {"evidence": 9}


def peak(path: Path) -> int:
    tracemalloc.start()
    check_stream(reader(path))
    found = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return found


def test_memory_does_not_grow_with_the_stream(tmp_path: Path) -> None:
    text = " ".join(["word"] * 150)
    short, long = (
        write(tmp_path / f"{count}.jsonl", [edit(f"{text} {i}", text) for i in range(count)]) for count in (1000, 8000)
    )
    assert long.stat().st_size > 11_000_000
    grown = peak(long) - peak(short)
    assert grown < 7000 * 150, f"{grown} bytes more for 7000 edits: they are held"


def test_texts_that_nobody_can_see_are_refused_alike(tmp_path: Path) -> None:
    records = [{"prompt": "The mayor of Brend is", "target_new": text} for text in ("Ula", "\u200b\u2060")]
    path = write(tmp_path / "edits.jsonl", records)
    said = []
    for check in (lambda: validate_stream(load_edits(path)), lambda: check_stream(lambda: open_edits(path))):
        with pytest.raises(DataError) as caught:
            check()
        said.append(caught.value.problems)
    assert said[0] == said[1]
    assert any("edits.jsonl:2: field 'target' has only characters that cannot be seen" in line for line in said[0])
