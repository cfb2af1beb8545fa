"""No probe is lost without a word: every form of a group is read, refused by its name, or counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from elder.datasets import EditStream, load_edits
from elder.edit import Probe
from elder.errors import DataError

FACT = {"subject": "Brend", "prompt": "The mayor of Brend is", "target_new": "Ula"}
A, B = Probe("The mayor of Arlo is", "Tam"), Probe("The river of Brend is", "Oro")


def load(tmp_path: Path, source: str = "knowedit", **fields: Any) -> EditStream:
    path = tmp_path / "requests.json"
    path.write_text(json.dumps([{**FACT, **fields}]))
    return load_edits(source, path)


def one(probe: Probe) -> dict[str, Any]:
    return {"prompt": probe.prompt, "ground_truth": probe.answer}


FORMS = {
    "an object": ({"neighborhood": one(A), "distracting": one(B)}, [A, B]),
    "lists in an object": ({"n": {"prompt": [A.prompt, B.prompt], "ground_truth": [A.answer, B.answer]}}, [A, B]),
    "one in lists": ({"n": {"prompt": [A.prompt], "ground_truth": [A.answer]}}, [A]),
    "one with aliases": ({"n": {"prompt": A.prompt, "ground_truth": [A.answer, "Tom"]}}, [A]),
    "one in a list with aliases": ({"n": {"prompt": [A.prompt], "ground_truth": ["Tam", "Tom"]}}, [A]),
    "a list of objects": ({"n": [one(A), one(B)]}, [A, B]),
    "nested aliases": ({"n": [{"prompt": A.prompt, "ground_truth": [["Tam", "Tom"], ["T"]]}]}, [A]),
    "groups take turns": ({"n": [one(A), one(A)], "m": [one(B)]}, [A, B, A]),
    "no group": ([one(A), one(B)], [A, B]),
    "no group, one object": (one(A), [A]),
    "our own form": ([{"prompt": A.prompt, "answer": A.answer}], [A]),
    "a number as answer": ({"n": {"prompt": A.prompt, "ground_truth": 7}}, [Probe(A.prompt, "7")]),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("field", ["locality", "portability"])
def test_every_form_of_a_group_is_read(tmp_path: Path, form: str, field: str) -> None:
    value, wanted = FORMS[form]
    edits = load(tmp_path, **{field: value})
    assert list(getattr(edits[0], field)) == wanted
    assert not edits.reading.left_out  # type: ignore[union-attr]


BARE = {
    "no answer": {"n": {"prompt": A.prompt}},
    "null": {"n": [{"prompt": A.prompt, "ground_truth": None}]},
    "a list of texts": {"n": [A.prompt]},
    "a text": {"n": A.prompt},
    "texts without a group": [A.prompt],
}


@pytest.mark.parametrize("form", BARE)
def test_locality_needs_no_answer_and_portability_without_one_is_refused_by_name(tmp_path: Path, form: str) -> None:
    assert load(tmp_path, locality=BARE[form])[0].locality == (Probe(A.prompt),)
    with pytest.raises(DataError, match=r"json\[0\]: field 'portability(\.n)?' has a probe without an answer"):
        load(tmp_path, portability=BARE[form])


WRONG = {
    "fewer answers": ({"n": {"prompt": ["a", "b", "c"], "ground_truth": ["x", "y"]}}, "n' has 3 prompts but 2 answers"),
    "one answer": ({"n": {"prompt": ["a", "b"], "ground_truth": "x"}}, "'locality.n' has 2 prompts but one answer"),
    "a number": ({"n": 7}, "'locality.n' must hold probes such as"),
    "a list of numbers": ({"n": [7]}, "'locality.n' must hold probes such as"),
    "a text": ("x", None),
    "a number instead of groups": (7, "'locality' must hold probes such as"),
    "a boolean as answer": ({"n": {"prompt": "a", "ground_truth": True}}, "'locality.n': an answer must be text"),
    "an object as prompt": ({"n": {"prompt": {"x": 1}, "ground_truth": "a"}}, "'locality.n': a prompt must be text"),
}


@pytest.mark.parametrize("form", WRONG)
def test_what_is_no_probe_is_refused_with_the_name_of_the_field(tmp_path: Path, form: str) -> None:
    value, said = WRONG[form]
    if said is None:
        assert load(tmp_path, locality=value)[0].locality == (Probe("x"),)
        return
    with pytest.raises(DataError, match=said):
        load(tmp_path, locality=value)


def test_empty_answers_and_fields_that_are_not_read_are_counted(tmp_path: Path) -> None:
    edits = load(
        tmp_path,
        locality={"n": [one(A), {"prompt": "x", "ground_truth": []}, {"prompt": "", "ground_truth": "y"}], "none": []},
        portability={"r": [{"prompt": "x", "ground_truth": "", "hops": 2}]},
        cond="x", case_id=3, empty=None, rephrase_prompt="Who?", rephrase="What?", locality_prompt="flat",
    )  # fmt: skip
    reading = edits.reading
    assert reading is not None
    assert edits[0].locality == (Probe("flat"), A)
    assert reading.left_out == {
        "locality.n with an empty answer": 1,
        "locality.n without a prompt": 1,
        "portability.r with an empty answer": 1,
        "portability.r.hops": 1,
    }
    assert reading.unread == {"cond": 1, "rephrase": 1}
    assert (reading.records, reading.edits, reading.rephrases, reading.locality, reading.portability) == (1, 1, 1, 2, 0)
    assert any("cond (1), rephrase (1)" in line for line in reading.lines())


def test_probes_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    edits = load(tmp_path, locality={"n": [{"prompt": f"p{i}", "ground_truth": "a"} for i in range(13)]})
    assert len(edits[0].locality) == 10
    assert edits.reading is not None
    assert edits.reading.left_out == {"locality beyond the first 10 of an edit (locality_probes)": 3}


@pytest.mark.parametrize("names", [("locality_prompt", "locality_ground_truth"), ("loc", "loc_ans")])
def test_lists_in_flat_fields_are_read_whole(tmp_path: Path, names: tuple[str, str]) -> None:
    source = "knowedit" if names[0] != "loc" else "zsre"
    fact = {"src": "q", "alt": "a", names[0]: [A.prompt, B.prompt], names[1]: [A.answer, B.answer]}
    assert load(tmp_path, source, **fact)[0].locality == (A, B)
    with pytest.raises(DataError, match=f"'{names[0]}' has 2 prompts but one answer"):
        load(tmp_path, source, **{**fact, names[1]: "Tam"})


def test_one_hop_beside_groups(tmp_path: Path) -> None:
    hop = {"Recalled Relation": "(a, b)", "New Question": A.prompt, "New Answer": A.answer}
    edits = load(tmp_path, portability={**hop, "Reasoning": [one(B)]})
    assert edits[0].portability == (B, A)
    assert edits.reading.left_out == {"portability.Recalled Relation": 1}  # type: ignore[union-attr]
    assert load(tmp_path, portability={**hop, "New Answer": ""}).reading.left_out == {  # type: ignore[union-attr]
        "portability.Recalled Relation": 1, "portability with an empty answer": 1,
    }  # fmt: skip
