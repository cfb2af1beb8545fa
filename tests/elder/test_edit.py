"""The record of one correction."""

from __future__ import annotations

import json
from typing import Any

import pytest

from elder.edit import Edit, Probe, content_id, dataset_digest
from elder.errors import DataError

FULL = Edit(
    prompt="The river of Arlo is",
    target="Tam",
    subject="Arlo",
    ground_truth="Obb",
    rephrases=("a", "b", "c", "d", "e"),
    locality=(Probe("x"), Probe("y", "z")),
    portability=(Probe("p", "q"),),
    source="gazette",
    author="me",
    reason="moved",
)


def wrong(record: Any) -> tuple[str, ...]:
    with pytest.raises(DataError) as caught:
        Edit.from_dict(record, "edits.jsonl:17")
    return caught.value.problems


def test_records_survive_json() -> None:
    for edit in (FULL, Edit("a", "b"), Edit("a", "b", id="mine")):
        assert Edit.from_dict(json.loads(json.dumps(edit.to_dict()))) == edit
    assert Edit("a", "b").to_dict() == {"id": content_id("a", "b", None), "prompt": "a", "target": "b"}


def test_ids_come_from_the_content() -> None:
    assert Edit("a", "b").id == Edit("a", "b", rephrases=("c",)).id == content_id("a", "b", None)
    assert len({Edit("a", "b").id, Edit("a", "c").id, Edit("c", "b").id, Edit("a", "b", subject="a").id}) == 4
    assert len(Edit("a", "b").id) == 16
    assert Edit("a", "b", id="mine").id == "mine"


@pytest.mark.parametrize("count", range(6))
def test_the_first_half_of_the_rephrases_trains_and_the_rest_measures(count: int) -> None:
    edit = Edit("p", "t", rephrases=tuple("abcdef"[:count]))
    assert edit.training_prompts == ("p", *"abcdef"[: count // 2])
    assert edit.heldout_rephrases == tuple("abcdef"[count // 2 : count])
    assert not set(edit.training_prompts) & set(edit.heldout_rephrases)


def test_wordings_that_are_trained_are_never_held_out() -> None:
    edit = Edit("p", "t", rephrases=("a", "b", "a", "p"))
    assert edit.training_prompts == ("p", "a", "b")
    assert edit.heldout_rephrases == ()


def test_texts_are_kept_as_they_are_written_but_for_space_after_answers() -> None:
    probe = {"prompt": "d\n", "answer": " e "}
    edit = Edit.from_dict({"prompt": "a\n", "target": " b\n", "rephrases": ["c "], "locality": [probe]})
    assert (edit.prompt, edit.target, edit.rephrases, edit.locality) == ("a\n", " b", ("c ",), (Probe("d\n", " e"),))
    assert edit.id == content_id("a", "b", None)  # as it was when the space was taken off


def test_the_place_of_a_subject_is_a_place_where_it_begins() -> None:
    record = {"prompt": "Ana is the mother of Ana and", "target": "b", "subject": "Ana", "subject_at": 0}
    edit = Edit.from_dict(record)
    assert edit.to_dict()["subject_at"] == edit.subject_at == 0
    assert edit.subject_place(f"It rained. {edit.prompt}") == len("It rained. ")
    assert edit.subject_place("Ana is") is None
    for at, said in ((4, "does not begin"), (-1, "does not begin"), ("0", "whole number"), (True, "whole number")):
        assert said in wrong({**record, "subject_at": at})[0]
    assert "needs a prompt and a subject" in wrong({"prompt": "a", "target": "b", "subject_at": 0})[0]


def test_all_that_is_wrong_is_told_with_the_place() -> None:
    found = wrong(
        {
            "prompt": " ",
            "subject": 3,
            "rephrases": ["a", ""],
            "locality": [{"answer": "x"}, {"prompt": "p", "more": 1}],
            "portability": [{"prompt": "p"}],
            "colour": "red",
        }
    )
    assert all(p.startswith("edits.jsonl:17: ") for p in found)
    text = "\n".join(found)
    for words in (
        "unknown field 'colour'",
        "'prompt' is empty",
        "'target' is missing",
        "'subject' must be text, found int",
        "'rephrases' must be a list",
        "locality[0]",
        "locality[1] has unknown fields: more",
        "portability[0] must have a text 'answer'",
    ):
        assert words in text
    assert len(found) == 8


def test_a_misspelt_field_is_told_what_it_may_mean() -> None:
    assert "unknown field 'traget'; did you mean 'target'? (known: " in wrong({"prompt": "a", "traget": "b"})[0]


@pytest.mark.parametrize("record", [[], "text", None, 3])
def test_what_is_no_object_is_refused(record: Any) -> None:
    assert "expected a JSON object" in wrong(record)[0]


@pytest.mark.parametrize("value", ["text", {"prompt": "x"}, [3]])
def test_probes_must_be_lists_of_objects(value: Any) -> None:
    assert "locality" in wrong({"prompt": "a", "target": "b", "locality": value})[0]


def test_the_digest_of_a_stream_knows_order_and_every_field() -> None:
    one, other = Edit("a", "b"), Edit("c", "d")
    digest = dataset_digest([one, other])
    assert digest == dataset_digest([Edit("a", "b"), Edit("c", "d")])
    streams = [other, one], [one], [one, Edit("c", "d", author="x")]
    assert len({digest, *map(dataset_digest, streams)}) == 4


def test_edits_are_values() -> None:
    assert Edit("a", "b") == Edit("a", "b")
    assert hash(Edit("a", "b")) == hash(Edit("a", "b"))
    with pytest.raises(AttributeError):
        Edit("a", "b").prompt = "c"
