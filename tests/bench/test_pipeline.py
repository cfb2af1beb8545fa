"""The benchmark of the pipeline's own cost: its arithmetic, and that it runs from end to end."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bench import pipeline
from bench.pipeline_parts import Parts, Setting, TimedTracker, flatness_lines, part_lines, parts_between, stage_lines

ROOT = Path(__file__).resolve().parents[2]


def seen() -> dict[str, Any]:
    """Two stages: started at 100, loading at 110 for 2 s, and 10 s for each stage."""
    commits = [
        {"load_s": 2.0, "edit_s": 6.0, "evaluate_s": 2.0, "commit_s": 1.0, "bytes": 2**20, "edits": 4},
        {"load_s": 0.0, "edit_s": 5.0, "evaluate_s": 3.0, "commit_s": 1.0, "bytes": 2**21, "edits": 8},
    ]
    events = [
        (110.0, "phase", "load", 0), (112.0, "phase", "edit", 0), (122.0, "committed", "", 0),
        (122.0, "phase", "edit", 1), (132.0, "committed", "", 1),
    ]  # fmt: skip
    calls = [
        ("start", False, 105.0, 106.0), ("log_dataset", False, 106.0, 107.0),
        ("log_metrics", True, 122.0, 122.5), ("log_adapter", True, 122.5, 123.0),
        ("log_metrics", False, 132.0, 132.2), ("log_adapter", False, 132.2, 133.2),
    ]  # fmt: skip
    return {"entered": 101.0, "ready": 104.0, "events": events, "calls": calls, "commits": commits, "final": {}}


@pytest.fixture
def parts() -> Parts:
    return Parts(Setting("full", "world:tiny", 8, 4, 2), seen(), 100.0, 136.0)


def test_the_parts_are_the_whole(parts: Parts) -> None:
    assert parts.total == 36.0
    assert parts.seconds == {
        "start": 10.0, "load": 2.0, "edit": 11.0, "evaluate": 5.0, "commit": 2.0, "between": 2.0, "closing": 4.0,
    }  # fmt: skip
    assert sum(parts.seconds.values()) == parts.total
    assert parts.outside_share == pytest.approx(20 / 36)
    assert parts_between(parts) == [1.0, 1.0]
    assert parts.start_s == (4.0, 3.0, 3.0)
    assert parts.retention_s == 1.5  # the second stage measures as many edits again as it has


def test_tracking_is_told_by_where_it_was_waited_for(parts: Parts) -> None:
    assert parts.tracking_s == pytest.approx((1.0, 3.2))
    assert parts.logging == pytest.approx([1.0, 1.2])


def test_every_figure_is_printed(parts: Parts) -> None:
    text = "\n".join([*part_lines(parts), *flatness_lines(parts), *stage_lines(parts)])
    for words in ("8 edits of world:tiny in 2 stages", "closing", "11.1%", "outside editing and measuring 55.6%"):
        assert words in text
    assert "first stage 1.00 MiB, last 2.00 MiB" in text


def test_the_target_decides_the_exit_code(parts: Parts, capsys: pytest.CaptureFixture[str]) -> None:
    assert pipeline._verdict([parts]) == 1
    assert "55.6% of the wall clock; 15% missed" in capsys.readouterr().out
    commits = [{**commit, "edit_s": 60.0} for commit in seen()["commits"]]
    busy = Parts(parts.setting, {**seen(), "commits": commits}, 100.0, 236.0)
    assert busy.outside_share < pipeline.TARGET
    assert pipeline._verdict([busy]) == 0


def test_a_timed_tracker_is_the_tracker() -> None:
    class Real:
        name = "x"

        def log(self, value: int) -> int:
            return value + 1

    timed = TimedTracker(Real())
    assert timed.log(1) == 2
    assert timed.name == "x"
    assert [(name, behind) for name, behind, _, _ in timed.calls] == [("log", False)]


@pytest.mark.nodes
def test_a_quick_run(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "bench" / "pipeline.py"), "--quick", "--json", str(tmp_path / "figures.json")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "quick: 16 edits of world:tiny in 4 stages" in done.stdout
    (record,) = json.loads((tmp_path / "figures.json").read_text())
    assert sum(record["seconds"].values()) == pytest.approx(record["total_s"])
    assert len(record["logging_s"]) == len(record["commits"]) == 4
    assert record["seconds"]["edit"] > 0
    assert record["tracking_s"][0] > 0
