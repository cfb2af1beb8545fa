"""Foreign layouts: small records of our own making, in the fields of each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elder.datasets import load_edits
from elder.edit import Probe
from elder.errors import DataError

CASE = {
    "case_id": 7,
    "requested_rewrite": {
        "prompt": "{} plays the",
        "target_new": {"str": "harp", "id": None},
        "target_true": {"str": "tuba", "id": "Q1"},
        "subject": "Ada Kelbury",
    },
    "paraphrase_prompts": ["It rained. Ada Kelbury performs on the", "Ada Kelbury owns a"],
    "neighborhood_prompts": [f"Person {i} plays the" for i in range(10)],
    "attribute_prompts": [],
}
REDUCED = {
    "case_id": 7,
    "prompt": "Ada Kelbury plays the",
    "target_new": "harp",
    "subject": "Ada Kelbury",
    "ground_truth": "tuba",
    "rephrase_prompt": "Ada Kelbury owns a",
    "locality_prompt": "Person 1 plays the",
    "locality_ground_truth": "tuba",
}
MEND = {
    "subject": "Aldmoor",
    "src": "Who rules Aldmoor?",
    "rephrase": "Aldmoor is ruled by whom?",
    "pred": "nobody",
    "alt": "Petra",
    "answers": ["Imre", "Imre W."],
    "loc": "nq question: how high is the tower",
    "loc_ans": "ten feet",
    "portability": {"New Question": "Where was the ruler of Aldmoor born?", "New Answer": "Foxley"},
}
KNOWEDIT = {
    "subject": "Aldmoor",
    "prompt": "Who rules Aldmoor?",
    "target_new": "Petra",
    "ground_truth": ["Imre"],
    "rephrase_prompt": "Aldmoor is ruled by whom?",
    "locality": {
        "Relation_Specificity": [{"prompt": "Aldmoor lies in", "ground_truth": [["Venn", "Old Venn"]]}],
        "Forgetfulness": [
            {"prompt": "Once ruled", "ground_truth": "Imre"},
            {"prompt": "No answer", "ground_truth": []},
        ],
    },
    "portability": {"Reasoning": [{"prompt": "The ruler's town is", "ground_truth": ["Foxley"]}]},
}
WIKIBIO = {
    "text": "Ada Kelbury was a judge.",
    "labels": "She died in Foxley.",
    "concept": "ada kelbury",
    "locality": {},
}


def load(tmp_path: Path, source: str, *records: Any, **options: Any) -> Any:
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return load_edits(source, path, **options)


def test_counterfact_original(tmp_path: Path) -> None:
    (edit,) = load(tmp_path, "counterfact", CASE)
    assert (edit.prompt, edit.target, edit.ground_truth) == ("Ada Kelbury plays the", "harp", "tuba")
    assert edit.subject == "Ada Kelbury"
    assert edit.training_prompts == (edit.prompt, CASE["paraphrase_prompts"][0])  # type: ignore[index]
    assert edit.heldout_rephrases == ("Ada Kelbury owns a",)
    assert edit.locality[3] == Probe("Person 3 plays the", "tuba")
    assert len(edit.locality) == 10
    assert "7" in str(edit.source)


def test_counterfact_knows_the_place_of_its_subject(tmp_path: Path) -> None:
    rewrite = {**CASE["requested_rewrite"], "prompt": "{} is the mother of Ada Kelbury, and plays the"}
    early, usual = load(tmp_path, "counterfact", {**CASE, "requested_rewrite": rewrite}, CASE)
    assert early.subject_at == 0
    assert usual.subject_at is None  # where it is looked for anyway


@pytest.mark.parametrize(("probes", "count"), [(0, 0), (4, 4), (None, 10)])
def test_counterfact_probes_can_be_limited(tmp_path: Path, probes: int | None, count: int) -> None:
    assert len(load(tmp_path, "counterfact", CASE, locality_probes=probes)[0].locality) == count


def test_counterfact_reduced_form_has_the_same_fact(tmp_path: Path) -> None:
    whole, reduced = load(tmp_path, "counterfact", CASE, REDUCED)
    assert reduced.id == whole.id
    assert reduced.training_prompts == (reduced.prompt,)
    assert reduced.heldout_rephrases == ("Ada Kelbury owns a",)
    assert reduced.locality == (Probe("Person 1 plays the", "tuba"),)


def test_zsre_of_mend_has_two_targets(tmp_path: Path) -> None:
    (edit,) = load(tmp_path, "zsre", MEND)
    assert (edit.prompt, edit.target, edit.ground_truth) == ("Who rules Aldmoor?", "Petra", "Imre")
    assert edit.heldout_rephrases == ("Aldmoor is ruled by whom?",)
    assert edit.locality == (Probe("nq question: how high is the tower", "ten feet"),)
    assert edit.portability == (Probe("Where was the ruler of Aldmoor born?", "Foxley"),)
    (edit,) = load(tmp_path, "zsre", MEND, target="answer")
    assert (edit.target, edit.ground_truth) == ("Imre", "nobody")


def test_zsre_with_an_empty_alternative_serves_the_true_answer_only(tmp_path: Path) -> None:
    record = {**MEND, "alt": ""}
    assert load(tmp_path, "zsre", record, target="answer")[0].target == "Imre"
    with pytest.raises(DataError, match=r"data.jsonl:1: field 'alt' is empty: remove the record, or .*target: answer"):
        load(tmp_path, "zsre", record)


def test_zsre_training_variant_has_the_truth_in_alt(tmp_path: Path) -> None:
    record = {name: MEND[name] for name in ("subject", "src", "rephrase", "alt", "loc", "loc_ans")}
    for target in ("alt", "answer"):
        (edit,) = load(tmp_path, "zsre", record, target=target)
        assert (edit.target, edit.ground_truth) == ("Petra", None)


@pytest.mark.parametrize("source", ["zsre", "knowedit"])
def test_knowedit_groups_take_turns_and_probes_without_answer_are_left_out(tmp_path: Path, source: str) -> None:
    (edit,) = load(tmp_path, source, KNOWEDIT)
    assert edit.ground_truth == "Imre"
    assert edit.locality == (Probe("Aldmoor lies in", "Venn"), Probe("Once ruled", "Imre"))
    assert edit.portability == (Probe("The ruler's town is", "Foxley"),)


def test_hallucination_in_both_forms(tmp_path: Path) -> None:
    wise = {
        "prompt": "Ada was a judge.",
        "target_new": "She died.",
        "locality_prompt": "Web",
        "locality_ground_truth": "text",
    }
    first, second = load(tmp_path, "hallucination", wise, WIKIBIO)
    assert (first.target, first.locality) == ("She died.", (Probe("Web", "text"),))
    assert (second.prompt, second.target) == ("Ada Kelbury was a judge.", "She died in Foxley.")
    assert second.subject == "ada kelbury"


def test_scotus_labels_become_words(tmp_path: Path) -> None:
    records = [{"text": "one two three four", "label": "Unions"}, {"text": "five", "label": 1}]
    first, second = load(tmp_path, "scotus", *records, max_words=3)
    assert first.prompt.startswith("one two three\n")
    assert (first.target, second.target) == ("Unions", "1")
    assert load(tmp_path, "scotus", records[1], labels=("Privacy", "Unions"))[0].target == "Unions"
    with pytest.raises(DataError, match="names for 0 to 0"):
        load(tmp_path, "scotus", records[1], labels=("Privacy",))


def test_problems_of_foreign_fields_are_collected_with_their_place(tmp_path: Path) -> None:
    rewrite = {**CASE["requested_rewrite"], "prompt": "no place", "target_new": {"str": ""}}  # type: ignore[dict-item]
    with pytest.raises(DataError) as caught:
        load(tmp_path, "counterfact", {"requested_rewrite": rewrite}, CASE, {"requested_rewrite": 3})
    said = caught.value.problems
    assert all("data.jsonl:1: " in problem for problem in said[:2])
    assert "no '{}'" in said[0]
    assert "'requested_rewrite.target_new.str' is empty" in said[1]
    assert said[2].endswith("data.jsonl:3: field 'requested_rewrite' is no object but int")
    assert len(said) == 3


def test_fields_of_no_layout_are_listed_beside_what_was_expected(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load(tmp_path, "zsre", {"question": "Who?", "reply": "I"})
    assert "(question, reply)" in str(caught.value)
    assert "mend: alt, src" in str(caught.value)


def test_a_bare_path_finds_the_layout_by_the_fields(tmp_path: Path) -> None:
    path = tmp_path / "mixed.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in (CASE, MEND, WIKIBIO, {"prompt": "A", "target": "b"})))
    assert [edit.target for edit in load_edits(str(path))] == ["harp", "Petra", "She died in Foxley.", "b"]


FEVER = (
    {"id": 1, "label": "SUPPORTS", "claim": "Moss is green.", "paraphrases": ["Green is what moss is."]},
    {"id": 2, "label": "NOT ENOUGH INFO", "claim": "Moss dreams."},
    {"id": 3, "label": "REFUTES", "claim": "Stones float."},
)


@pytest.mark.parametrize(("target", "words"), [("alt", ["false", "true"]), ("answer", ["true", "false"])])
def test_fever_claims_become_true_or_false(tmp_path: Path, target: str, words: list[str]) -> None:
    path = tmp_path / "fever.jsonl"
    path.write_text("\n".join(json.dumps(record) for record in FEVER))
    edits = load_edits("fever", path=path, target=target)
    assert [edit.target for edit in edits] == words
    assert [edit.ground_truth for edit in edits] == ["true", "false"]
    assert edits[0].prompt == "Claim: Moss is green. This claim is"
    assert edits[0].rephrases == ("Claim: Green is what moss is. This claim is",)
    assert edits.places[1].endswith("fever.jsonl:3")
    assert len(load_edits("fever", path=path, limit=2)) == 2  # claims that are passed over do not count


def test_fever_in_the_layout_of_editing_papers(tmp_path: Path) -> None:
    record = {"id": 7, "input": "Stones float.", "output": [{"answer": "REFUTES"}], "alternatives": ["SUPPORTS"],
              "filtered_rephrases": ["Stones swim.", "Stones float."], "logit": -3.0}  # fmt: skip
    path = tmp_path / "fever.jsonl"
    path.write_text(json.dumps(record))
    (edit,) = load_edits("fever", path=path)
    assert (edit.target, edit.ground_truth, edit.source) == ("true", "false", "fever claim 7")
    assert edit.rephrases == ("Claim: Stones swim. This claim is",)
    for wrong, said in (({"output": []}, "list of objects"), ({"output": [{"answer": "MAYBE"}]}, "found 'MAYBE'")):
        path.write_text(json.dumps({**record, **wrong}))
        with pytest.raises(DataError, match=said):
            load_edits("fever", path=path)
