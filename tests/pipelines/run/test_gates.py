"""Gates refuse exactly what misses its bound."""

from __future__ import annotations

from elder.pipelines.run.gates import refusals

METRICS = {"reliability.generate": 0.9, "reliability.forced": 0.5, "perplexity": 20.0}


def test_bounds_hold_at_equality_and_name_the_metric() -> None:
    assert refusals({"reliability": 0.9}, METRICS, ("generate", "forced")) == []
    assert refusals({"reliability": 0.9}, METRICS, ("forced",)) == [
        "gates.reliability: reliability.forced = 0.5000 is below 0.9"
    ]
    assert refusals({"reliability.forced": 0.6, "perplexity": 10}, METRICS, ("generate",)) == [
        "gates.reliability.forced: reliability.forced = 0.5000 is below 0.6",
        "gates.perplexity: 20 is above 10",
    ]


def test_what_was_not_measured_or_is_not_a_number_is_refused() -> None:
    assert "was not measured" in refusals({"locality": 0.1}, METRICS, ("generate",))[0]
    assert refusals({"locality": 0.1}, {"locality.generate": float("nan")}, ("generate",))
    assert refusals({"perplexity": 10}, {"perplexity": float("nan")}, ("generate",))


def test_kinds_of_locality_have_dots_in_their_names() -> None:
    measured = {"locality.mention.generate": 0.8, "locality.mention.forced": 0.9}
    assert refusals({"locality.mention": 0.8, "locality.mention.forced": 0.9}, measured, ("generate",)) == []
    assert refusals({"locality.mention": 0.9}, measured, ("generate",)) == [
        "gates.locality.mention: locality.mention.generate = 0.8000 is below 0.9"
    ]


def test_what_should_be_small_is_refused_above_its_bound() -> None:
    measured = {"stale.generate": 0.25, "fluency.after_answer_ratio": 1.5, "scope.mention": 0.1, "scope.edits": 0.9}
    assert (
        refusals(dict.fromkeys(("stale", "scope.mention"), 0.25) | {"scope.edits": 0.9}, measured, ("generate",)) == []
    )
    assert refusals({"stale": 0.1, "fluency.after_answer_ratio": 1.1}, measured, ("generate",)) == [
        "gates.stale: stale.generate = 0.25 is above 0.1",
        "gates.fluency.after_answer_ratio: fluency.after_answer_ratio = 1.5 is above 1.1",
    ]
    assert "is below" in refusals({"scope.edits": 0.95}, measured, ("generate",))[0]
    assert "was not measured" in refusals({"fluency.after_answer": 3}, measured, ("generate",))[0]
