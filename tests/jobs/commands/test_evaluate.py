"""`elder evaluate --tasks`, and a run that measures ability after every stage: through the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.elder.ability.tiny_tasks import write_files
from tests.jobs.conftest import Elder

UNTRACKED = ("tracking.mlflow=null", "tracking.register=null")


@pytest.fixture
def run(elder: Elder, small_run: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A finished run that measured RTE after every stage; returns its overrides."""
    monkeypatch.setenv("ELDER_HOME", str(tmp_path / "home"))  # else an earlier session's scores are found there
    (tmp_path / "tasks").mkdir()
    folder = write_files(tmp_path / "tasks")
    words = [*small_run, *UNTRACKED, f"evaluation.ability.path={folder}"]
    asked = ("evaluation.ability.tasks=[rte]", "gates.ability.rte=1")
    found = elder("edit", "demo", *words, *asked, "--run-id", "r1", "--json", "result.json")
    assert found.code == 0, found.err
    return words


def test_scores_before_and_after_with_their_intervals(elder: Elder, run: list[str], tmp_path: Path) -> None:
    final = json.loads((tmp_path / "result.json").read_text())["final"]
    assert {"ability.rte", "ability.rte.said", "ability_base.rte", "ability_base.rte.said"} <= set(final)
    manifest = next((tmp_path / "elder-runs/store/runs/r1").rglob("stage*1/**/manifest.json"), None)
    adapter = (manifest or next((tmp_path / "elder-runs").rglob("manifest.json"))).parent
    words = ("evaluate", str(adapter), "demo", *run, "--json", "e.json", "--tasks", "gsm8k,rte,wikitext")
    found = elder(*words)
    assert found.code == 0, found.err
    assert "general ability, with 95 % intervals" in found.out
    assert "asking gsm8k, rte, wikitext: 8 of 8" in found.out  # RTE was asked by the run
    measured = json.loads((tmp_path / "e.json").read_text())["ability"]
    assert list(measured) == ["gsm8k", "rte", "rte.said", "wikitext"]
    for row in measured.values():
        before, after, change = row["before"], row["after"], row["difference"]
        assert change["value"] == pytest.approx(after["value"] - before["value"])
        assert all(one["low"] <= one["value"] <= one["high"] for one in (before, after, change))
    assert measured["rte"]["difference"]["method"] == "Agresti-Min"
    assert measured["wikitext"]["n"] == 1
    again = elder(*words)  # the unedited model is remembered
    assert "asking gsm8k, rte, wikitext: 5 of 5" in again.out
    assert json.loads((tmp_path / "e.json").read_text())["ability"] == measured


def test_tasks_that_are_not_there_are_told_before_a_model_is_loaded(elder: Elder, small_run: list[str]) -> None:
    found = elder("evaluate", ".", "demo", *small_run, "--tasks", "chess")
    assert found.code == 2
    assert "evaluation.ability.tasks" in found.err
    asked = ("evaluation.ability.tasks=[nq]", "evaluation.ability.path=none")
    for verb in ("edit", "validate"):
        found = elder(verb, "demo", *small_run, *UNTRACKED, *asked)
        assert found.code == 2
        assert "none/nq_test.jsonl: no such file (nor with .gz), which the task 'nq' reads" in found.err
