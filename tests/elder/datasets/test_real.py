"""The published files, where they are at hand: set ELDER_SHARED, or keep `shared` beside the repository."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from elder.datasets import load_edits, validate_stream
from elder.errors import DataError

DATA = Path(os.environ.get("ELDER_SHARED", Path(__file__).resolve().parents[4] / "shared")) / "data"
pytestmark = pytest.mark.skipif(not DATA.is_dir(), reason="the published datasets are not here (ELDER_SHARED)")


@pytest.mark.parametrize(
    ("source", "name", "count"),
    [
        ("counterfact", "counterfact_genuine.jsonl.gz", 2237),
        ("zsre", "zsre_mend_eval_1037.jsonl.gz", 941),
        ("zsre", "knowedit_zsre_test.jsonl.gz", 1176),
        ("hallucination", "common/hallucination_wise_edit.jsonl.gz", 600),
        ("hallucination", "common/hallucination_knowedit_wikibio_test.jsonl.gz", 306),
        ("temporal", "common/temporal_wise_edit.jsonl.gz", 75),
        ("knowedit", "common/knowedit_wiki_counterfact_test.jsonl.gz", 839),
    ],
)
def test_a_published_file_is_read_whole(source: str, name: str, count: int) -> None:
    edits = load_edits(source, DATA / name)
    assert len(edits) == count
    assert all(edit.prompt and edit.target for edit in edits)
    assert load_edits(source, DATA / name, limit=5) == edits[:5]
    if source != "temporal":
        assert sum(bool(edit.locality) for edit in edits) > count / 2


@pytest.mark.parametrize(
    ("source", "name", "counts", "left_out"),
    [
        ("mquake", "mquake_hard_429", (429, 1716, 1287), 0),
        ("mquake", "mquake_cf_akew_354", (354, 436, 1062), 0),
        ("akew", "mquake_cf_akew_354", (354, 436, 2706 + 1062), 0),
        ("rippleedits", "rippleedits_popular_710", (710, 710, 572), 214),
    ],
)
def test_sets_of_portability_are_read_whole(
    source: str, name: str, counts: tuple[int, int, int], left_out: int
) -> None:
    reading = load_edits(source, DATA / "common" / f"{name}.jsonl.gz").reading
    assert reading is not None
    assert (reading.records, reading.edits, reading.portability) == counts
    assert sum(reading.left_out.values()) == left_out


def test_counterfact_has_the_fields_that_the_measurements_need() -> None:
    edits = load_edits("counterfact", DATA / "counterfact_genuine.jsonl.gz", limit=400)
    assert all(len(edit.heldout_rephrases) == 1 and len(edit.training_prompts) == 2 for edit in edits)
    assert all(edit.subject and edit.subject in edit.prompt and edit.ground_truth != edit.target for edit in edits)
    assert all(len(edit.locality) == 10 for edit in edits)


def test_the_contradictions_of_counterfact_are_found_and_can_be_resolved() -> None:
    path = DATA / "counterfact_genuine.jsonl.gz"
    edits = load_edits("counterfact", path)
    with pytest.raises(DataError, match=r"counterfact_genuine.jsonl.gz:\d+: .* contradicts .*:\d+"):
        validate_stream(edits)
    kept = validate_stream(edits, "last_wins")
    assert len(kept) == len({edit.prompt for edit in edits})


def test_answers_of_zsre_differ_from_the_alternatives() -> None:
    path = DATA / "zsre_mend_eval_1037.jsonl.gz"
    alternative, true = (load_edits("zsre", path, limit=200, target=target) for target in ("alt", "answer"))
    assert [edit.prompt for edit in alternative] == [edit.prompt for edit in true]
    assert [edit.ground_truth for edit in alternative] == [edit.target for edit in true]
