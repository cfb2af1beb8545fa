"""Prompts near an edit: which are made, which are given, and how they are judged on a model whose answers are known."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from elder.edit import Edit, Probe
from elder.metrics.evaluate import evaluate
from elder.metrics.evaluator import Evaluator
from elder.metrics.near import OTHER_QUESTIONS, Edited, alias_prompts, made_prompts
from elder.metrics.questions import DEFAULT_PARTS

ADA = Edit(
    "Ada lives in",
    "Paris",
    subject="Ada",
    locality=(Probe("Cy lives in", "Bern"), Probe("The friend of Ada lives in"), Probe("Di lives in")),
)
OTHERS = [Edit("Di lives in", "Bonn", subject="Di"), Edit("New Ada lives in", "Lyon", subject="New Ada")]
EDITED = Edited.of([ADA, *OTHERS])
NEAR = ("same_subject", "mention", "name")


def test_mentions_are_its_neighbours_after_a_sentence_about_it() -> None:
    """Not those about itself, nor those that the stream edits."""
    assert made_prompts(ADA, "mention", EDITED) == ["Ada was mentioned. Cy lives in"]
    assert made_prompts(ADA, "mention", Edited.of([ADA]))[1:] == ["Ada was mentioned. Di lives in"]


def test_longer_names_stand_in_its_prompt_unless_they_are_edited() -> None:
    assert made_prompts(ADA, "name", EDITED) == ["Adason lives in", "Ada-Smith lives in"]
    assert len(made_prompts(ADA, "name", Edited.of([ADA]))) == 3
    elsewhere = Edit("The home of new Ada is", "Lyon", subject="new Ada")
    assert made_prompts(ADA, "name", Edited.of([ADA, elsewhere])) == ["Adason lives in", "Ada-Smith lives in"]
    twice = replace(ADA, prompt="Ada is a town. Ada lies in")
    assert made_prompts(twice, "name", Edited.of([twice])) == []  # Ada itself would still be named
    assert made_prompts(replace(ADA, prompt="Route 66 ends in", subject="Route 66"), "name", EDITED) == []


def test_other_questions_share_no_word_with_the_edit_s_wordings() -> None:
    assert made_prompts(ADA, "same_subject", EDITED) == [text.format("Ada") for text in OTHER_QUESTIONS[:3]]
    named = replace(ADA, rephrases=("The name of Ada's town is",))
    assert made_prompts(named, "same_subject", EDITED) == [
        text.format("Ada") for text in (OTHER_QUESTIONS[0], *OTHER_QUESTIONS[2:4])
    ]


def test_nothing_is_made_without_a_subject() -> None:
    for edit in (replace(ADA, subject=None), replace(ADA, subject="Bo")):
        assert [made_prompts(edit, kind, EDITED) for kind in NEAR] == [[], [], []]


def test_aliases_take_the_place_of_the_subject() -> None:
    assert alias_prompts(replace(ADA, aliases=("A. L.", "A. L."))) == ["A. L. lives in"]
    assert alias_prompts(ADA) == []


BASE = {
    "Ada lives in": "Rome.",
    "Cy lives in": "Bern.",
    "Ada was mentioned. Cy lives in": "Bern.",
    "Adason lives in": "Oslo.",
    "Ada-Smith lives in": "Kyiv.",
    "Ada works in": "Lima.",
    "Ada sings in": "Cork.",
}
AFTER = {
    "Ada lives in": "Paris.",
    "Ada was mentioned. Cy lives in": "Paris.",
    "Adason lives in": "Paris.",
    "Ada sings in": "Paris.",
    "A. L. lives in": "Paris.",
}
GIVEN = replace(ADA, same_subject=(Probe("Ada works in", "Lima"), Probe("Ada sings in", "Cork")), aliases=("A. L.",))


def test_made_and_given_prompts_are_judged_against_the_unedited_model(table_editor: Any) -> None:
    editor = table_editor(BASE, AFTER, scope=lambda text: "Ada" in text)
    report = evaluate(editor, [ADA, *OTHERS], parts=("locality", "scope", *NEAR))
    row = report.rows[0]
    for protocol in ("generate", "forced"):
        assert row[f"locality.mention.{protocol}"] == 0.0
        assert row[f"locality.name.{protocol}"] == 0.5  # Adason says Paris, Ada-Smith does not
        assert row[f"locality.same_subject.{protocol}"] == 1.0
    assert row["locality.mention.generate.texts"] == ["Paris."]
    assert row["locality.mention.base_texts"] == ["Bern."]
    assert (row["scope.mention"], row["scope.name"], row["scope.same_subject"]) == (1.0, 1.0, 1.0)
    assert report.metrics["locality.generate"] == 1.0
    assert not any(name.startswith("locality_answer.") and "mention" in name for name in report.metrics)
    assert "locality.mention.generate" not in report.rows[1]  # it has no locality prompts: absent, not 1.0


def test_the_default_parts_ask_given_prompts_and_make_none(table_editor: Any) -> None:
    editor = table_editor(BASE, AFTER, scope=lambda text: "sings" in text or "A. L." in text)
    report = evaluate(editor, [GIVEN])
    assert report.metrics["locality.same_subject.generate"] == report.metrics["locality.same_subject.forced"] == 0.5
    assert report.metrics["scope.same_subject"] == 0.5
    assert report.metrics["alias.generate"] == report.metrics["alias.forced"] == report.metrics["scope.alias"] == 1.0
    assert not any("mention" in name or "locality.name" in name for name in report.metrics)
    plain = evaluate(table_editor(BASE, AFTER), [ADA])
    assert set(plain.metrics) == {f"{q}.{p}" for q in ("reliability", "locality", "locality_answer")
                                  for p in ("generate", "forced")}  # fmt: skip


def test_made_prompts_that_do_not_fit_are_left_out(table_editor: Any) -> None:
    long = Edit(f"{'x' * 170} Ada lives in", "Rome", subject="Ada", locality=(Probe("y" * 190),))
    report = evaluate(table_editor({}, {}), [long], protocols=("generate",), parts=("reliability", *NEAR))
    assert "locality.name.generate" in report.metrics
    assert "locality.mention.generate" not in report.metrics


def test_the_base_is_asked_once(table_editor: Any) -> None:
    editor = table_editor(BASE, AFTER)
    evaluator = Evaluator(editor, protocols=("generate",))
    evaluator.measure([GIVEN], ("locality", *NEAR))
    asked = len([text for active, text in editor.model.seen if active == "base"])
    evaluator.measure([GIVEN], ("locality", *NEAR))
    assert asked
    assert len([text for active, text in editor.model.seen if active == "base"]) == asked


def test_probes_are_fields_of_an_edit() -> None:
    full = replace(GIVEN, id="7", mentions=(Probe("Ada left. Bo is"),), extended_names=(Probe("Adason is", "here"),))
    record = full.to_dict()
    assert Edit.from_dict(record) == full
    assert record["mentions"] == [{"prompt": "Ada left. Bo is"}]
    assert record["aliases"] == ["A. L."]
    assert set(ADA.to_dict()) == {"id", "prompt", "target", "subject", "locality"}
    assert set(DEFAULT_PARTS).isdisjoint(NEAR)
