"""The facts of `elder demo --real`: each asks for something untrue, and probes what no edit of the list touches."""

from __future__ import annotations

from collections import Counter

import pytest

from elder.datasets.countries import FACTS, UNEDITED, WORDINGS
from elder.datasets.load import load_edits
from elder.errors import DataError
from elder.subjects import find_subject


def test_forty_edits_go_together_and_no_country_is_edited_twice() -> None:
    edits = load_edits("countries", conflicts="refuse")
    assert len(edits) == len({edit.subject for edit in edits}) == 40
    for edit in edits:
        assert edit.target != edit.ground_truth
        assert len(edit.training_prompts) == 3
        assert len(edit.heldout_rephrases) == 2
        for prompt in (edit.prompt, *edit.rephrases):
            assert find_subject(prompt, str(edit.subject)) is not None


def test_every_stage_has_all_relations_and_a_shorter_list_begins_a_longer_one() -> None:
    edits = load_edits("countries")
    assert load_edits("countries", limit=10) == edits[:10]
    beginnings = {wordings[0].split("{}")[0]: relation for relation, wordings in WORDINGS.items()}
    kinds = [next(name for start, name in beginnings.items() if edit.prompt.startswith(start)) for edit in edits]
    for stage in range(4):
        assert len(Counter(kinds[10 * stage : 10 * stage + 10])) == len(FACTS)


def test_probes_ask_for_what_no_edit_changes() -> None:
    edits = load_edits("countries")
    changed = {prompt for edit in edits for prompt in (edit.prompt, *edit.rephrases)}
    for edit in edits:
        same, other = edit.locality
        assert str(edit.subject) in same.prompt
        assert any(country in other.prompt for country in UNEDITED)
        assert not {same.prompt, other.prompt} & changed


def test_the_list_needs_no_file() -> None:
    with pytest.raises(DataError, match="needs no file, found path"):
        load_edits("countries", "x.jsonl")
