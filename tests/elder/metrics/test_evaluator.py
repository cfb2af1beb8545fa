"""The evaluator on a model whose answers are known: every verdict, deduplication, ranks, errors."""

from __future__ import annotations

import json

import pytest

from elder.edit import Edit, Probe
from elder.errors import ConfigError, DataError
from elder.metrics.evaluate import evaluate
from elder.metrics.evaluator import Evaluator

BASE = {
    "Ada lives in": "Rome.",
    "The home of Ada is": "Rome.",
    "Ada dwells in": "Rome.",
    "Bo lives in": "Oslo.",
    "Bo dwells in": "Oslo.",
    "Cy lives in": "Bern.",
    "Di lives in": "Lima.",
    "Ada's city lies in": "Italy.",
}
EDITED = {
    "Ada lives in": "the Paris.",  # right, but for article and full stop
    "Ada dwells in": "Paris.",
    "Bo lives in": "Oslo City.",  # begins like the target: wrong as a whole answer
    "Cy lives in": "Cairo.",  # damage
    "Ada's city lies in": "France.",
}
ADA = Edit(
    "Ada lives in",
    "Paris",
    ground_truth="Rome",
    rephrases=("Where is Ada?", "Ada dwells in", "The home of Ada is"),
    locality=(Probe("Cy lives in", "Bern"), Probe("Di lives in", "Lima")),
    portability=(Probe("Ada's city lies in", "France"),),
)
BO = Edit("Bo lives in", "Oslo", rephrases=("Bo dwells in",), locality=(Probe("Di lives in"),))
EDITS = [ADA, BO]


def test_every_figure_on_known_answers(table_editor):
    report = evaluate(table_editor(BASE, EDITED, scope=lambda text: "Ada" in text), EDITS)
    assert report.metrics == {
        "reliability.generate": 0.5,
        "reliability.forced": 0.5,
        # Ada: one of two held-out rephrases ('Where is Ada?' trains); Bo: its only rephrase is held out, and right.
        "generalization.generate": 0.75,
        "generalization.forced": 0.75,
        "locality.generate": 0.75,  # Ada: Cy changed, Di not; Bo: Di not
        "locality.forced": 0.75,
        "locality_answer.generate": 0.5,  # only Ada's probes have answers
        "locality_answer.forced": 0.5,
        "portability.generate": 1.0,
        "portability.forced": 1.0,
        "scope.edits": 0.5,
        "scope.rephrases": 0.5,
        "scope.locality": 0.0,
    }
    assert report.counts["portability.generate"] == 1
    assert report.counts["generalization.forced"] == 2
    assert report.protocols == ("generate", "forced")


def test_forced_reads_target_tokens_only(table_editor):
    """Teacher forcing does not see what comes behind the target: 'Oslo City.' is right, 'the Paris.' is wrong."""
    report = evaluate(table_editor(BASE, EDITED), EDITS, parts=("reliability",))
    by_target = {row["target"]: row for row in report.rows}
    assert by_target["Paris"]["reliability.generate"] == 1.0
    assert by_target["Paris"]["reliability.forced"] == 0.0
    assert by_target["Oslo"]["reliability.generate"] == 0.0
    assert by_target["Oslo"]["reliability.forced"] == 1.0
    assert by_target["Oslo"]["reliability.forced.nll"] < 0.1 < by_target["Paris"]["reliability.forced.nll"]


def test_rows_say_what_the_model_said(table_editor):
    report = evaluate(table_editor(BASE, EDITED), EDITS)
    row = report.rows[0]
    assert (row["edit_id"], row["prompt"], row["target"]) == (ADA.id, ADA.prompt, "Paris")
    assert row["reliability.generate.text"] == "the Paris."
    assert row["generalization.generate.texts"] == ["Paris.", "Rome."]
    assert row["locality.generate.texts"] == ["Cairo.", "Lima."]
    assert row["locality.base_texts"] == ["Bern.", "Lima."]
    assert json.loads(json.dumps(report.to_dict())) == report.to_dict()


def test_an_unedited_model_keeps_locality_and_fails_reliability(table_editor):
    """R4: full-answer match is 0 for the base on counterfactual targets, and locality is perfect."""
    report = evaluate(table_editor(BASE, {}), [ADA])
    assert report.metrics["reliability.generate"] == report.metrics["reliability.forced"] == 0.0
    assert report.metrics["locality.generate"] == report.metrics["locality.forced"] == 1.0
    assert report.metrics["locality_answer.generate"] == 1.0


def test_reliability_of_the_whole_is_the_mean_over_edits(table_editor):
    """R1, and the order of edits does not matter."""
    editor = table_editor(BASE, EDITED)
    whole = evaluate(editor, EDITS).metrics
    single = [evaluate(editor, [edit]).metrics["reliability.generate"] for edit in EDITS]
    assert whole["reliability.generate"] == sum(single) / 2
    assert evaluate(editor, EDITS[::-1]).metrics == whole


def test_quantities_without_prompts_are_left_out(table_editor):
    report = evaluate(table_editor(BASE, EDITED), [Edit("Bo lives in", "Oslo")])
    assert set(report.metrics) == {"reliability.generate", "reliability.forced"}
    assert evaluate(table_editor(BASE, EDITED), []).metrics == {}


def test_methods_without_deferral_have_no_scope(table_editor):
    assert not any(name.startswith("scope") for name in evaluate(table_editor(BASE, EDITED, scope=None), EDITS).metrics)


def test_one_protocol_alone(table_editor):
    report = evaluate(table_editor(BASE, EDITED), EDITS, protocols=("forced",))
    assert report.metrics["locality.forced"] == 0.75
    assert not any(name.endswith(".generate") for name in report.metrics)
    editor = table_editor(BASE, EDITED)
    evaluate(editor, [BO], protocols=("generate",), parts=("reliability",))
    assert editor.routed == []  # nothing was teacher-forced


def test_identical_prompts_run_once(table_editor):
    editor = table_editor(BASE, EDITED)
    evaluator = Evaluator(editor, protocols=("generate",))
    evaluator.measure(EDITS, parts=("reliability", "locality"))
    # Base: Cy, Di. Edited: Cy, Di (locality), then Ada, Bo: 'Di lives in' of both edits is one row.
    assert editor.base.runtime.generations == [2, 2, 2]
    evaluator.measure(EDITS, parts=("reliability", "locality"))
    assert editor.base.runtime.generations == [2, 2, 2, 2, 2]  # the base is not asked again


def test_forced_rows_are_routed_at_their_last_prompt_token(table_editor):
    """Rows end together; ' Paris' has 6 byte tokens and ' Oslo' 5, and the longest row decides the width."""
    editor = table_editor(BASE, EDITED)
    Evaluator(editor, protocols=("forced",)).measure([ADA, BO], parts=("reliability",))
    width = 1 + len("Ada lives in Paris")
    assert editor.routed == [[width - 6 - 1, width - 5 - 1]]
    assert editor.model.kept == [7]  # longest target + 1: no logits for prompts


def test_unfinished_answers_are_wrong(table_editor):
    """The right words without a natural stop are not the whole answer."""
    edit = Edit("Ada lives in", "Paris")
    talker = table_editor({}, {"Ada lives in": "Paris" + "." * 100})
    assert evaluate(talker, [edit], parts=("reliability",)).metrics["reliability.generate"] == 0.0
    writer = table_editor({}, {"Ada lives in": "Paris\nBo lives in Oslo"})
    assert evaluate(writer, [edit], parts=("reliability",)).metrics["reliability.generate"] == 1.0


def test_long_targets_get_room(table_editor):
    target = "a house by the river that nobody has seen for years"
    edit = Edit("Ada lives in", target)
    editor = table_editor({}, {"Ada lives in": target + "."})
    report = evaluate(editor, [edit], parts=("reliability",), max_new_tokens=8)
    assert report.metrics["reliability.generate"] == 1.0


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("world_size", [2, 3])
def test_ranks_agree_with_one_process_and_stay_in_step(table_editor, on_ranks, sharded, world_size):
    parts = ("reliability", "generalization", "locality", "portability", "scope", "fluency", "counterfact")

    def scope(text):
        return "Ada" in text

    alone = evaluate(table_editor(BASE, EDITED, scope), EDITS, parts=parts, batch_size=2)

    def program(runtime):
        editor = table_editor(BASE, EDITED, scope, runtime)
        report = evaluate(editor, EDITS, parts=parts, batch_size=2)
        return report, editor.model.forwards, len(runtime.generations)

    results = on_ranks(program, world_size, sharded)
    for report, _, _ in results:
        assert report == alone
    if sharded:
        assert len({forwards for _, forwards, _ in results}) == 1
        assert len({generations for _, _, generations in results}) == 1


def test_progress_ends_at_the_total(table_editor):
    seen: list[tuple[int, int]] = []
    editor = table_editor(BASE, EDITED, scope=lambda text: True)
    evaluator = Evaluator(editor, batch_size=2)
    for _ in range(2):  # the second time without the base
        seen.clear()
        evaluator.measure(EDITS, progress=lambda done, total: seen.append((done, total)))
        done = [one for one, _ in seen]
        assert done == sorted(done)
        assert len({total for _, total in seen}) == 1
        assert seen[-1][0] == seen[-1][1]


def test_counterfact_scores(table_editor):
    neighbours = (Probe("Eve lives in", "Rome"), Probe("Fay lives in", "Rome"), Probe("Cy lives in", "Bern"))
    edit = Edit(ADA.prompt, "Paris", ground_truth="Rome", rephrases=ADA.rephrases, locality=neighbours)
    base = {**BASE, "Eve lives in": "Rome.", "Fay lives in": "Rome."}
    edited = {"Ada lives in": "Paris.", "Ada dwells in": "Paris.", "Fay lives in": "Paris."}
    report = evaluate(table_editor(base, edited), [edit, BO], parts=("counterfact",))
    assert report.metrics["counterfact.ES"] == 1.0
    assert report.metrics["counterfact.PS"] == 0.5  # of the two held-out rephrases one still says Rome
    assert report.metrics["counterfact.NS"] == 0.5  # Cy is no neighbour: its answer is not Rome
    assert report.metrics["counterfact.S"] == pytest.approx(3 / (1 / 1 + 1 / 0.5 + 1 / 0.5))
    assert 0.5 < report.metrics["counterfact.EM"] < 1
    assert report.metrics["counterfact.NM"] == pytest.approx(0.0, abs=1e-3)
    assert report.counts["counterfact.ES"] == 1  # Bo has no ground truth
    assert "counterfact.NS" not in report.rows[1]


def test_fluency_is_off_by_default(table_editor):
    editor = table_editor(BASE, EDITED)
    assert "fluency.generate" not in evaluate(editor, EDITS).metrics
    assert evaluate(editor, EDITS, parts=("fluency",)).metrics["fluency.generate"] >= 0.0


def test_bad_names_and_sizes_are_refused_at_once(table_editor):
    editor = table_editor(BASE, EDITED)
    with pytest.raises(ConfigError, match="unknown protocol 'free'"):
        Evaluator(editor, protocols=("free",))
    with pytest.raises(ConfigError, match="no protocol"):
        Evaluator(editor, protocols=())
    with pytest.raises(ConfigError, match="batch_size"):
        Evaluator(editor, batch_size=0)
    with pytest.raises(ConfigError, match=r"unknown part 'reach'") as caught:
        Evaluator(editor).measure(EDITS, parts=("reach", "speed"))
    assert len(caught.value.problems) == 2


def test_prompts_beyond_the_context_are_refused_before_anything_runs(table_editor):
    editor = table_editor(BASE, EDITED)
    long = Edit("y" * 200, "Paris", id="long-one", locality=(Probe("z" * 300),))
    with pytest.raises(DataError, match="long-one") as caught:
        Evaluator(editor).measure([ADA, long])
    assert len(caught.value.problems) == 2
    assert editor.model.forwards == 0


def test_the_base_is_asked_once_by_all_that_share_its_answers(table_editor):
    answers: dict = {}
    parts = ("locality", "perplexity")
    first = Evaluator(table_editor(BASE, EDITED), batch_size=8)
    first.share(answers)
    expected = first.measure(EDITS, parts)

    # A base that would answer in another way betrays whether it is asked.
    silent = {**BASE, "Cy lives in": "Cairo.", "Di lives in": "Rome."}
    again = Evaluator(table_editor(silent, {**EDITED, "Di lives in": "Lima."}), batch_size=8)
    again.share(answers)
    measured = again.measure(EDITS, parts)
    assert measured.metrics["locality.generate"] == expected.metrics["locality.generate"] == 0.75
    assert measured.metrics["perplexity_base"] == expected.metrics["perplexity_base"]
    assert measured.rows[0]["locality.base_texts"] == expected.rows[0]["locality.base_texts"]

    other = Evaluator(table_editor(silent, EDITED), batch_size=4)  # other batches may round in another way
    other.share(answers)
    assert other.measure(EDITS, parts).rows[0]["locality.base_texts"] != expected.rows[0]["locality.base_texts"]
