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


ABILITY = {
    "ability_base.gsm8k": 0.60, "ability.gsm8k": 0.58, "ability_base.wikitext": 20.0, "ability.wikitext": 21.0,
}  # fmt: skip


def test_ability_may_fall_by_the_bound_and_no_further() -> None:
    assert refusals({"ability.gsm8k": 0.02, "ability.wikitext": 0.05}, ABILITY, ("generate",)) == []
    assert refusals({"ability.gsm8k": 0.01, "ability.wikitext": 0.04}, ABILITY, ("generate",)) == [
        "gates.ability.gsm8k: 0.5800 is 0.0200 below the unedited model's 0.6000; at most 0.01 is allowed",
        "gates.ability.wikitext: 21 is 5.0% above the unedited model's 20; at most 4.0% is allowed",
    ]
    better = {"ability_base.gsm8k": 0.5, "ability.gsm8k": 0.9, "ability_base.wikitext": 20, "ability.wikitext": 1}
    assert refusals({"ability.gsm8k": 0, "ability.wikitext": 0}, better, ("generate",)) == []


def test_ability_that_was_not_measured_is_refused() -> None:
    assert refusals({"ability.rte": 0.5}, ABILITY, ("generate",)) == ["gates.ability.rte: ability.rte was not measured"]
    assert refusals({"ability.gsm8k": 0.5}, {"ability.gsm8k": 1.0}, ("generate",))
    nan = {"ability_base.gsm8k": 0.5, "ability.gsm8k": float("nan")}
    assert refusals({"ability.gsm8k": 0.5}, nan, ("generate",))
