"""Answers that were superseded: which edits correct which, and whether the old answers are gone."""

from __future__ import annotations

from typing import Any

from elder.edit import Edit
from elder.metrics.corrections import Correction, corrections, out_of_force
from elder.metrics.evaluate import evaluate
from elder.metrics.evaluator import Evaluator
from elder.metrics.questions import questions

FIRST = Edit("Ada lives in", "Paris", subject="Ada", ground_truth="Rome", rephrases=("Ada dwells in",))
SECOND = Edit("Ada dwells in", "Bonn", subject="Ada", rephrases=("Ada's home is",))
BO = Edit("Bo lives in", "Oslo", subject="Bo")


def test_a_shared_wording_is_a_correction() -> None:
    assert corrections([FIRST, BO, SECOND]) == [
        Correction(SECOND.id, ("Ada dwells in", "Ada lives in"), ("Paris",)),
    ]


def test_the_named_old_answer_is_one_too() -> None:
    fresh = Edit("The city of Ada is", "Bonn", subject="ada", ground_truth="the Paris")
    assert corrections([FIRST, fresh]) == [Correction(fresh.id, (fresh.prompt, FIRST.prompt), ("Paris",))]
    other = Edit("The dog of Ada is", "Rex", subject="Ada", ground_truth="Fido")
    assert corrections([FIRST, other]) == []


def test_other_subjects_and_repeated_answers_are_none() -> None:
    named = Edit("He lives in", "Rome", subject="Cy", rephrases=("Ada dwells in",))
    assert corrections([FIRST, named]) == []
    assert corrections([FIRST, Edit("Ada dwells in", "paris.", subject="Ada")]) == []
    anyone = Edit("ada  lives in", "Rome")
    assert [one.edit for one in corrections([FIRST, anyone])] == [anyone.id]


def test_what_was_corrected_twice_has_two_old_answers_and_back_again_none_of_its_own() -> None:
    third = Edit("Ada's home is", "Lima", subject="Ada")
    (found,) = corrections([FIRST, SECOND, third])
    assert (found.edit, found.superseded) == (third.id, ("Paris", "Bonn"))
    back = Edit("Ada's home is", "Paris", subject="Ada")
    (found,) = corrections([FIRST, SECOND, back])
    assert found.superseded == ("Bonn",)


def test_a_corrected_edit_is_not_asked_for_its_own_answer() -> None:
    """Giving it would be wrong, and counted as right."""
    back = Edit("Ada's home is", "Paris", subject="Ada")
    assert out_of_force([FIRST, BO, SECOND]) == {FIRST.id}
    assert out_of_force([FIRST, SECOND, back]) == {SECOND.id}  # the first one says what is in force again
    parts = ("reliability", "generalization", "locality", "portability")
    asked = questions([FIRST, BO], parts, [FIRST, BO, SECOND])
    assert {(one.edit, one.part) for one in asked} == {(1, "reliability")}
    before = questions([FIRST, BO], parts)
    assert {(one.edit, one.part) for one in before} == {(0, "reliability"), (0, "generalization"), (1, "reliability")}


def test_a_late_edit_may_join_two_facts() -> None:
    one, two = Edit("a is", "1"), Edit("b is", "2")
    both = Edit("b is", "3", rephrases=("a is",))
    assert corrections([one, two, both]) == [Correction(both.id, ("b is", "a is"), ("1", "2"))]


def test_old_answers_are_counted_where_they_are_still_given(table_editor: Any) -> None:
    after = {"Ada lives in": "Paris.", "Ada dwells in": "Bonn.", "Bo lives in": "Oslo."}
    report = evaluate(table_editor({}, after), [FIRST, BO, SECOND], parts=("reliability", "stale"))
    assert report.metrics["stale.generate"] == report.metrics["stale.forced"] == 0.5
    assert report.counts["stale.generate"] == 1
    assert report.rows[2]["stale.generate.texts"] == ["Bonn.", "Paris."]
    assert "stale.generate" not in report.rows[0]
    cured = table_editor({}, {**after, "Ada lives in": "Bonn."})
    assert evaluate(cured, [FIRST, SECOND], parts=("stale",)).metrics == {"stale.generate": 0.0, "stale.forced": 0.0}
    assert "stale.generate" not in evaluate(cured, [FIRST, BO], parts=("stale",)).metrics


def test_the_stream_so_far_counts_not_only_what_is_measured(table_editor: Any) -> None:
    evaluator = Evaluator(table_editor({}, {"Ada lives in": "Paris."}), protocols=("generate",))
    assert evaluator.measure([SECOND], ("stale",)).metrics == {}
    found = evaluator.measure([SECOND], ("stale",), so_far=[FIRST, BO, SECOND])
    assert found.metrics == {"stale.generate": 0.5}
    assert evaluator.measure([FIRST], ("stale",), so_far=[FIRST, BO, SECOND]).metrics == {}


def test_a_prompt_with_an_old_answer_is_asked_once(table_editor: Any) -> None:
    editor = table_editor({}, {"Ada lives in": "Paris."})
    Evaluator(editor, protocols=("generate",)).measure([FIRST, SECOND], ("reliability", "stale"))
    assert editor.base.runtime.generations == [2]
