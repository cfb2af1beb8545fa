"""The benchmark of the weight editors runs from end to end; it compares like with like by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_quick_run_prints_and_writes_every_figure(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "bench" / "weights.py"), "--quick", "--json", str(tmp_path / "figures.json")],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    names = " ".join(figure["name"] for figure in figures)
    for words in (
        "at once / one at a time, as published",
        "at once / one at a time, prefixes reused",
        "primal / dual, 10 keys, width 300, identity",
        "factored prior",
        "one pass / a pass a block",
        "a batch, memit, after 40 / 4 edits",
        "a batch, alphaedit, after 40 / 4 edits",
        "a batch, ultraedit, after 40 / 4 edits",
    ):
        assert words in names
    assert all(figure["name"] in done.stdout for figure in figures)
