"""The metrics on a real small model that knows facts of CounterFact (see ELDER_SHARED)."""

from __future__ import annotations

import gzip
import json
from itertools import islice
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from elder.base import Base
from elder.edit import Edit, Probe
from elder.metrics.evaluator import Evaluator
from elder.runtime import LocalRuntime

CASES = 800


def read_cases(path: Path) -> list[dict]:
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in islice(lines, CASES)]


def edit_of(case: dict, target: str) -> Edit:
    rewrite = case["requested_rewrite"]
    return Edit(
        rewrite["prompt"].format(rewrite["subject"]),
        rewrite[target]["str"],
        ground_truth=rewrite["target_true"]["str"],
        rephrases=tuple(case["paraphrase_prompts"]),
        locality=tuple(Probe(p, rewrite["target_true"]["str"]) for p in case["neighborhood_prompts"][:1]),
    )


@pytest.fixture(scope="module")
def cases(shared_dir):
    path = shared_dir / "data" / "counterfact_genuine.jsonl.gz"
    if not path.exists():
        pytest.skip(f"no {path}")
    return read_cases(path)


@pytest.fixture(scope="module")
def small_base(shared_dir):
    path = shared_dir / "models" / "counterfact-small"
    if not path.is_dir():
        pytest.skip(f"no {path}")
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True).eval().requires_grad_(False)
    return Base(model, AutoTokenizer.from_pretrained(path, local_files_only=True), str(path), LocalRuntime("cpu"))


@pytest.fixture
def evaluator(small_base, identity_editor):
    return Evaluator(identity_editor(small_base))


def test_the_model_knows_the_true_answers(evaluator, cases):
    """Its README says 0.985 on the prompts, 1.00 on paraphrases, teacher-forced."""
    report = evaluator.measure([edit_of(c, "target_true") for c in cases], parts=("reliability",))
    assert report.metrics["reliability.forced"] == pytest.approx(0.985, abs=0.005)
    assert report.metrics["reliability.generate"] > 0.95


def test_the_model_does_not_know_the_targets(evaluator, cases):
    """R4: on counterfactual targets an unedited model scores near 0 under both protocols."""
    edits = [edit_of(c, "target_new") for c in cases[:200]]
    parts = ("reliability", "generalization", "locality", "counterfact")
    report = evaluator.measure(edits, parts=parts)
    assert report.metrics["reliability.generate"] <= 0.02
    assert report.metrics["reliability.forced"] <= 0.02
    assert report.metrics["generalization.generate"] <= 0.02
    assert report.metrics["locality.generate"] == report.metrics["locality.forced"] == 1.0
    assert report.metrics["locality_answer.forced"] > 0.9
    assert report.metrics["counterfact.ES"] < 0.05
    assert report.metrics["counterfact.NS"] > 0.95
