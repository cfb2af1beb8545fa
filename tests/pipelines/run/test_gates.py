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
