"""MQuAKE, AKEW, UnKE, RippleEdits, WikiBigEdit, UltraEditBench: small records of our own, in the fields of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elder.datasets import DATASETS, EditStream, load_edits
from elder.edit import Probe
from elder.errors import DataError

MAYOR = {
    "prompt": "The mayor of {} is", "relation_id": "P6", "subject": "Brend", "question": "Who is the mayor of Brend?",
    "target_new": {"str": "Ula", "id": "Q1"}, "target_true": {"str": "Imre", "id": "Q2"},
    "fact_new_uns": "Brend, a town on the river Oro, is led by Ula Kelbury.",
    "unsfact_triplets_GPT": [{"subject": "Brend", "prompt": "{} lies on the river", "target": "Oro"}, {"subject": "x"}],
}  # fmt: skip
AUNT = {**MAYOR, "prompt": "The aunt of {} is", "subject": "Ula", "question": "Who is Ula's aunt?",
        "target_new": {"str": "Oda", "id": "Q3"}, "fact_new_uns": "Ula's aunt Oda is a baker."}  # fmt: skip
MQUAKE = {
    "case_id": 9, "requested_rewrite": [MAYOR, AUNT], "questions": ["Who is the aunt of Brend's mayor?", "Whose aunt?"],
    "answer": "Ada", "new_answer": "Oda", "new_answer_alias": ["Oda K."],
}  # fmt: skip
QUERY = {"prompt": "The river of Brend is", "answers": [{"value": "Oro", "aliases": ["the Oro"]}], "phrase": None}
RIPPLE = {
    "example_type": "popular",
    "edit": {
        "prompt": "The name of the town which Brend is a part of is The New Arlo.", "target_id": "Q4",
        "original_fact": {"prompt": "The name of the town which Brend is a part of is The New Tam.", "target_id": "Q5"},
    },
    "Relation_Specificity": [{"test_queries": [QUERY], "test_condition": "OR", "condition_queries": [QUERY]}],
    "Logical_Generalization": [{"test_queries": [{**QUERY, "answers": []}]}],
    "Subject_Aliasing": [],
    "Compositionality_I": [{"test_queries": [{**QUERY, "prompt": "Its mayor is"}]}],
    "Compositionality_II": [{"test_queries": [{**QUERY, "prompt": "Its flag is"}]}], "Forgetfulness": [],
}  # fmt: skip
WIKI = {
    "tag": "x", "subject": "Brend", "update": "Who is the mayor of Brend?", "ans": "Ula",
    "rephrase": "Who leads Brend?", "loc": "Who leads Arlo?", "loc_ans": "Tam",
    "mhop": "Who is the aunt of Brend's mayor?", "mhop_ans": "Oda", "personas": "Tell me, mate, who runs Brend?",
}  # fmt: skip
UNKE = {
    "id": 4, "question": "Who was Ada?", "answer": "Ada was a judge. " * 40, "para_question": "Tell of Ada.",
    "sub_question": ["What was Ada?", "Where?"], "sub_answer": ["a judge", "Foxley"],
}  # fmt: skip


def load(tmp_path: Path, source: str, *records: Any, **options: Any) -> EditStream:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_edits(path if source == "path" else source, None if source == "path" else path, **options)


@pytest.mark.parametrize("source", ["mquake", "path"])
def test_mquake_gives_an_edit_for_each_rewrite_and_its_questions_to_the_last(tmp_path: Path, source: str) -> None:
    edits = load(tmp_path, source, MQUAKE, {**MQUAKE, "case_id": 10, "requested_rewrite": [AUNT]})
    assert [(edit.prompt, edit.target) for edit in edits] == [
        ("The mayor of Brend is", "Ula"), ("The aunt of Ula is", "Oda"), ("The aunt of Ula is", "Oda"),
    ]  # fmt: skip
    assert edits[0].rephrases == ("Who is the mayor of Brend?",)
    assert edits[0].portability == ()
    assert edits[1].portability == (Probe("Who is the aunt of Brend's mayor?", "Oda"), Probe("Whose aunt?", "Oda"))
    assert [place.split("data.jsonl")[1] for place in edits.places] == [":1 rewrite 1", ":1 rewrite 2", ":2"]
    assert [edit.source for edit in edits] == ["mquake case 9", "mquake case 9", "mquake case 10"]
    reading = edits.reading
    assert reading is not None
    assert (reading.records, reading.edits, reading.portability) == (2, 3, 4)
    assert reading.unread["answer"] == 2
    assert reading.unread["requested_rewrite[].fact_new_uns"] == 2


def test_a_limit_within_a_record_is_kept_and_counted(tmp_path: Path) -> None:
    edits = load(tmp_path, "mquake", MQUAKE, limit=1)
    assert [edit.target for edit in edits] == ["Ula"]
    assert edits.reading.left_out == {"edits of the last record, beyond the limit": 1}  # type: ignore[union-attr]


def test_akew_has_long_answers_for_one_rewrite_or_several(tmp_path: Path) -> None:
    several, single = load(tmp_path, "akew", {**MQUAKE, "requested_rewrite": [AUNT]}, {"requested_rewrite": MAYOR})
    assert (several.prompt, several.target) == ("Who is Ula's aunt?", "Ula's aunt Oda is a baker.")
    assert several.portability[-2:] == (Probe("Who is the aunt of Brend's mayor?", "Oda"), Probe("Whose aunt?", "Oda"))
    assert single.target.startswith("Brend, a town")
    assert single.portability == (Probe("Brend lies on the river", "Oro"),)


@pytest.mark.parametrize("source", ["rippleedits", "path"])
def test_rippleedits_statements_are_cut_and_criteria_become_probes(tmp_path: Path, source: str) -> None:
    edits = load(tmp_path, source, RIPPLE)
    (edit,) = edits
    assert edit.prompt == "The name of the town which Brend is a part of is"
    assert (edit.target, edit.ground_truth, edit.subject) == ("The New Arlo", "The New Tam", None)
    assert edit.locality == (Probe("The river of Brend is", "Oro"),)
    assert [probe.prompt for probe in edit.portability] == ["Its mayor is", "Its flag is"]
    assert edits.reading.left_out == {"Logical_Generalization with an empty answer": 1}  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("statement", "former", "prompt", "target"),
    [
        ("A is followed by B is C.", "A is followed by D.", "A is followed by", "B is C"),
        ("Season 5 follows 2005 Open.", "Season 5 follows 2004 Open.", "Season 5 follows", "2005 Open"),
        ("The siblings of X are Jo.", None, "The siblings of X are", "Jo"),
        ("The club of X is A.C. Tam..", None, "The club of X is", "A.C. Tam."),
    ],
)
def test_where_a_statement_is_cut(tmp_path: Path, statement: str, former: str | None, prompt: str, target: str) -> None:
    fact = {"prompt": statement, "original_fact": former and {"prompt": former}}
    (edit,) = load(tmp_path, "rippleedits", {**RIPPLE, "edit": fact})
    assert (edit.prompt, edit.target) == (prompt, target)


def test_a_statement_without_a_verb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data.jsonl:1: field 'edit.prompt' has no answer after is, are or follows"):
        load(tmp_path, "rippleedits", {**RIPPLE, "edit": {"prompt": "Brend rules."}})


@pytest.mark.parametrize("source", ["wikibigedit", "path"])
def test_wikibigedit(tmp_path: Path, source: str) -> None:
    several = {**WIKI, "mhop": ["a", "b"], "mhop_ans": ["c", "d"]}
    edits = load(tmp_path, source, WIKI, {**WIKI, "mhop_ans": None}, several)
    assert (edits[0].prompt, edits[0].target, edits[0].subject) == ("Who is the mayor of Brend?", "Ula", "Brend")
    assert edits[0].heldout_rephrases == ("Who leads Brend?",)
    assert edits[0].locality == (Probe("Who leads Arlo?", "Tam"),)
    assert edits[0].portability == (Probe("Who is the aunt of Brend's mayor?", "Oda"),)
    assert edits[1].portability == ()
    assert edits[2].portability == (Probe("a", "c"), Probe("b", "d"))
    reading = edits.reading
    assert reading is not None
    assert reading.left_out == {"mhop without an answer (mhop_ans)": 1}
    assert reading.unread == {"tag": 3, "personas": 3}


@pytest.mark.parametrize("source", ["unke", "path"])
def test_unke_has_long_answers_and_questions_on_their_parts(tmp_path: Path, source: str) -> None:
    (edit,) = load(tmp_path, source, UNKE)
    assert (edit.prompt, len(edit.target), edit.source) == ("Who was Ada?", 17 * 40 - 1, "case 4")
    assert edit.rephrases == ("Tell of Ada.",)
    assert edit.portability == (Probe("What was Ada?", "a judge"), Probe("Where?", "Foxley"))


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "q", "ans": "a", "rephrase": "r", "loc": "l", "loc_ans": "m"},
        {"src": "q", "ans": "a", "rephrase": "r", "loc": "l", "loc_ans": "m"},
        {"question": "q", "answer": "a", "rephrase": "r", "loc": "l", "loc_ans": "m"},
        {
            "prompt": "q",
            "target_new": "a",
            "rephrase_prompt": "r",
            "locality_prompt": "l",
            "locality_ground_truth": "m",
        },
    ],
)
def test_ultraeditbench_by_the_names_that_such_sets_use(tmp_path: Path, record: Any) -> None:
    edits = load(tmp_path, "ultraeditbench", record)
    (edit,) = edits
    assert (edit.prompt, edit.target, edit.rephrases, edit.locality) == ("q", "a", ("r",), (Probe("l", "m"),))
    assert not edits.reading.unread  # type: ignore[union-attr]


@pytest.mark.parametrize("source", ["mquake", "akew", "rippleedits", "wikibigedit", "unke"])
def test_what_a_record_lacks_is_named(tmp_path: Path, source: str) -> None:
    with pytest.raises(DataError, match=r"data.jsonl:1: field '\w+' is missing"):
        load(tmp_path, source, {"x": 1})
    assert source in DATASETS


def test_mquake_names_the_rewrite_that_is_wrong(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, "mquake", {**MQUAKE, "requested_rewrite": [MAYOR, {**AUNT, "subject": None}, 3]})
    said = [problem.split(": ", 1)[1] for problem in caught.value.problems]
    assert said == [
        "field 'requested_rewrite[2]' is no object but int",
        "field 'requested_rewrite[1].subject' is missing",
    ]
