"""Files of tasks: what is read, what is chosen, and what is refused with its place."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from elder.ability.files import read_tasks
from elder.ability.tasks import NAMES, TASKS
from elder.errors import DataError
from tests.elder.ability.tiny_tasks import RECORDS, write_files


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_files(tmp_path)


ENDS = {
    "gsm8k": "answer (arabic numerals) is:", "rte": "True or False? answer:", "nq": "?", "boolq": "answer:",
    "mutual": "Among A through D, the answer is", "samsum": "\nTL;DR:", "conll03": " Entity:", "sst2": " answer:",
}  # fmt: skip


def test_prompts_end_as_published(folder: Path) -> None:
    found = read_tasks(folder, NAMES)
    for name, end in ENDS.items():
        assert found[name]
        assert all(item.prompt.endswith(end) for item in found[name])


def test_the_reasoning_is_given_and_the_number_is_not(folder: Path) -> None:
    item = next(item for item in read_tasks(folder, ["gsm8k"])["gsm8k"] if "Two" in item.prompt)
    assert item.prompt.startswith("Q: Two and three? A:Let's think step by step. 2+3=<<2+3=5>>5\n Therefore")
    assert item.gold == ("5",)


def test_labels_choose_the_right_choice(folder: Path) -> None:
    found = read_tasks(folder, ["rte", "boolq", "mutual", "sst2"])
    assert {item.prompt.split(" ")[0]: item.gold for item in found["rte"]} == {"It": (" True",), "Snow": (" False",)}
    assert sorted(item.gold[0] for item in found["boolq"]) == [" no", " yes"]
    assert sorted(item.gold[0] for item in found["mutual"]) == [" A", " B"]
    assert {item.prompt.split("text: ")[1]: item.gold[0] for item in found["sst2"]} == {
        "a joy answer:": " positive",
        "a bore answer:": " negative",
    }


def test_entities_of_columns(folder: Path) -> None:
    found = {item.group: item for item in read_tasks(folder, ["conll03"])["conll03"]}
    assert {kind: item.gold for kind, item in found.items()} == {"PER": ("Ann Lee",), "LOC": ("Rome",)}
    assert found["PER"].prompt == (
        "Please identify Person Entity from the given text. Text: Ann Lee left Rome. Entity:"
    )


def test_a_choice_of_records_does_not_depend_on_their_order(folder: Path) -> None:
    path = folder / TASKS["gsm8k"].file
    lines = [json.dumps({**RECORDS["gsm8k"][0], "question": f"{n} and three?"}) for n in range(20)]
    path.write_text("\n".join(lines))
    some = read_tasks(folder, ["gsm8k"], 5)["gsm8k"]
    path.write_text("\n".join(reversed(lines)))
    assert read_tasks(folder, ["gsm8k"], 5)["gsm8k"] == some
    assert len(some) == 5
    assert read_tasks(folder, ["gsm8k"], 8)["gsm8k"][:5] == some
    assert [item.prompt[3] for item in some] != ["0", "1", "2", "3", "4"]


def test_packed_files_are_read_alike(folder: Path) -> None:
    plain = read_tasks(folder, NAMES)
    for name in NAMES:
        path = folder / TASKS[name].file
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    assert read_tasks(folder, NAMES) == plain


def test_files_that_are_missing_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        read_tasks(tmp_path, ["rte", "conll03"])
    assert len(error.value.problems) == 2
    assert f"{tmp_path / 'rte_test.jsonl'}: no such file (nor with .gz)" in error.value.problems[0]


@pytest.mark.parametrize(
    ("name", "line", "message"),
    [
        ("gsm8k", '{"question": "a", "answer": "5"}', "field 'answer' must end in a line '#### NUMBER'"),
        ("gsm8k", '{"question": "a"}', "the task 'gsm8k' needs the field 'answer'"),
        ("rte", '{"sentence1": "a", "sentence2": "b", "label": 2}', "field 'label' must be a number from 0 to 1"),
        ("rte", '{"sentence1": "", "sentence2": "b", "label": 1}', "field 'sentence1' must be a text"),
        ("boolq", '{"passage": "a", "question": "b", "answer": "yes"}', "field 'answer' must be true or false"),
        ("mutual", '{"article": "a", "options": ["b"], "answers": "A"}', "expected four 'options'"),
        ("nq", '{"question": "a", "answer": [], "output": ["b"]}', "field 'answer' must be a list of texts"),
        ("sst2", "[]", "expected an object with the fields sentence, label"),
        ("sst2", "{", "not valid JSON"),
    ],
)
def test_what_is_wrong_with_a_record_names_its_line(name: str, line: str, message: str, folder: Path) -> None:
    path = folder / TASKS[name].file
    path.write_text(f"{json.dumps(RECORDS[name][0])}\n{line}\n")
    with pytest.raises(DataError) as error:
        read_tasks(folder, [name])
    assert error.value.problems[0].startswith(f"{path}:2: ")
    assert message in error.value.problems[0]


def test_columns_that_are_none_and_files_of_nothing_are_refused(folder: Path) -> None:
    path = folder / TASKS["conll03"].file
    path.write_text("Ann B-PER\nLee\n")
    with pytest.raises(DataError, match=r"conll03_test\.txt:2: expected WORD POS CHUNK TAG"):
        read_tasks(folder, ["conll03"])
    for name in ("conll03", "sst2", "wikitext"):
        (folder / TASKS[name].file).write_text("\n")
        with pytest.raises(DataError, match=f"holds nothing to ask for '{name}'"):
            read_tasks(folder, [name])
