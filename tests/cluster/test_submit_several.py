"""Comparisons and studies as Ray jobs on a real head, through the command line as users call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.job_head import JobHead
from tests.cluster.test_submit import elder
from tests.jobs.conftest import build_model, records, write_jsonl

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(580)]

WHOLE = """
name: several
model: {{source: {model}}}
data: {{source: jsonl, path: edits.jsonl, edits: 4}}
stream: {{stage_size: 2, batch_size: 2}}
evaluation: {{max_new_tokens: 3, probes: 0, protocols: [forced]}}
cluster: {{workers: 1, sharding: none, threads_per_worker: 1}}
tracking: {{mlflow: null, store: runs/store}}
"""
MEMIT = "{text: text.txt, text_tokens: null, layers: [1], steps: 2, contexts: 0}"
ELDER = "{steps: 2, layers: [2], rank: 2}"
COMPARE = f"compare:\n  methods:\n    memit: {MEMIT}\n    elder: {ELDER}\n    never: {{method: rome, text: text.txt}}\n"
STUDY = f"study:\n  methods: {{memit: {MEMIT}}}\n  parts: {{p: {{values: [1, 2], strategies: [batch], edits: 2}}}}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a user stands: configs beside the files that they name."""
    model = build_model(tmp_path / "llama", "llama")
    write_jsonl(tmp_path / "edits.jsonl", records(4))
    lines = [f"The town number {i} lies on a river, and {i * i % 97} people live in it." for i in range(60)]
    (tmp_path / "text.txt").write_text("\n".join(lines))
    for name, section in (("compare", COMPARE), ("study", STUDY)):
        (tmp_path / f"{name}.yaml").write_text(WHOLE.format(model=model) + section)
    return tmp_path


def result_of(folder: Path, place: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "runs/store" / place / "report/result.json").read_text())
    return found


def test_a_comparison_is_sent_followed_and_found_again(head: JobHead, folder: Path) -> None:
    """The methods and the strategy of the command line go along, and so does the text that one of them names."""
    words = ("submit", "compare", "compare.yaml", "--methods", "memit,elder", "--strategy", "sequential")
    done = elder(head, folder, *words, "--run-id", "c", "--follow", "--json", "out.json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads((folder / "out.json").read_text())["exit_code"] == 0
    result = result_of(folder, "compares/c")
    assert result["status"] == {"memit": "finished", "elder": "finished"}
    assert result["strategy"] == "sequential"
    assert [len(one["stages"]) for one in result["methods"].values()] == [2, 2]
    again = "elder submit compare compare.yaml --methods memit,elder --strategy sequential --resume c"
    assert again in done.stdout, "the job itself says how to go on with it"
    status = elder(head, folder, "status", "c").stdout
    assert "2 of 2 runs done, 4 stages committed" in status
    assert f"{folder / 'runs/store'}/compares/c/report/report.html" in status
    assert "2 of 2 runs done" in elder(head, folder, "jobs").stdout
    twice = elder(head, folder, *words, "--run-id", "c")
    assert (twice.returncode, "has been submitted" in twice.stderr) == (2, True)
    changed = elder(head, folder, *words[:3], "compare.methods.elder.steps=3", *words[3:], "--resume", "c")
    assert changed.returncode == 2
    assert "run 'c-elder' exists with another config" in changed.stderr
    assert "editor.steps: 2 -> 3" in changed.stderr


def test_one_method_that_fails_ends_the_job_with_1_and_the_others_stand(head: JobHead, folder: Path) -> None:
    words = ("submit", "compare", "compare.yaml", "compare.methods.memit.layers=[9]", "--methods", "memit,elder")
    done = elder(head, folder, *words, "--run-id", "f", "--follow")
    assert done.returncode == 1, done.stdout + done.stderr
    result = result_of(folder, "compares/f")
    assert result["status"] == {"memit": "failed", "elder": "finished"}
    status = elder(head, folder, "status", "f").stdout
    assert "failed (exit code 1)" in status
    assert "1 of 2 runs done" in status
    assert "1 of 2 did not finish" in status, "its log said last"


def test_a_study_is_sent_and_its_report_lies_in_the_store(head: JobHead, folder: Path) -> None:
    gone = elder(head, folder, "submit", "study", "study.yaml", "study.methods.memit.text=gone.txt", "--run-id", "s")
    assert gone.returncode == 2
    assert "study.methods.memit.text: gone.txt: no such file here" in gone.stderr
    done = elder(head, folder, "submit", "study", "study.yaml", "--run-id", "s", "--follow")
    assert done.returncode == 0, done.stdout + done.stderr
    runs = result_of(folder, "studies/s")["runs"]
    assert {name: run["status"] for name, run in runs.items()} == {
        "p-memit-batch-b0001": "finished", "p-memit-batch-b0002": "finished",
    }  # fmt: skip
    assert (folder / "runs/store/studies/s/report/plots").is_dir()
    assert "2 of 2 runs done" in elder(head, folder, "status", "s").stdout
