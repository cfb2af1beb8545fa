"""What speaks against a promotion."""

from __future__ import annotations

import pytest

from elder.pipelines.run.promotion import objections

GOOD = {"reliability.generate": 0.95, "locality.forced": 0.99}


@pytest.mark.parametrize(
    ("gates", "metrics", "status", "found"),
    [
        ({"reliability": 0.9, "locality.forced": 0.9}, GOOD, "FINISHED", []),
        ({"reliability": 0.9}, GOOD, "RUNNING", []),
        ({}, GOOD, "FINISHED", []),
        ({"reliability": 0.99}, GOOD, "FINISHED", ["is below 0.99"]),
        ({"portability": 0.5}, GOOD, "FINISHED", ["was not measured"]),
        ({}, GOOD, "FAILED", ["its run failed"]),
        ({"reliability": 0.9}, {}, "FINISHED", ["nothing was measured"]),
        (None, GOOD, "FINISHED", ["left no config"]),
        ({"reliability": 0.99}, GOOD, "FAILED", ["its run failed", "is below 0.99"]),
    ],
)
def test_objections(gates: dict[str, float] | None, metrics: dict[str, float], status: str, found: list[str]) -> None:
    told = objections(gates, ("generate", "forced"), metrics, status)
    assert len(told) == len(found)
    assert all(part in text for part, text in zip(found, told, strict=True))
