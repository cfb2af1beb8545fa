"""`elder validate`: what was read and what was left out is printed, and long files say how far it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.jobs.conftest import Elder

RECORD = {
    "subject": "Brend", "prompt": "The mayor of Brend is", "target_new": "Ula", "cond": "x", "pred": "y",
    "locality": {"n": {"prompt": ["The mayor of Arlo is", "The mayor of Cossit is"], "ground_truth": ["Tam", "Oro"]}},
    "portability": {"r": [{"prompt": "Her aunt is", "ground_truth": ""}]},
}  # fmt: skip


def test_validate_prints_what_was_read_and_what_was_left_out(
    elder: Elder, tmp_path: Path, small_run: list[str]
) -> None:
    (tmp_path / "requests.json").write_text(json.dumps([RECORD, {**RECORD, "prompt": "The queen of Brend is"}]))
    given = [*small_run, "data.source=knowedit", "data.path=requests.json", "data.edits=null"]
    found = elder("validate", "demo", *given, "--json", "v.json")
    assert found.code == 0, found.err
    assert "# data ok: 2 edits" in found.out
    assert "# read: 2 records: 2 edits, 0 rephrases, 4 locality probes, 0 portability probes" in found.out
    assert "# left out: portability.r with an empty answer (2)" in found.out
    assert "# fields not read (in so many records): cond (2), pred (2)" in found.out
    told = json.loads((tmp_path / "v.json").read_text())
    assert told["read"]["unread"] == {"cond": 2, "pred": 2}
    assert told["edits"] == 2


def test_validate_refuses_what_edit_would_refuse(elder: Elder, tmp_path: Path, small_run: list[str]) -> None:
    (tmp_path / "requests.json").write_text(json.dumps([RECORD, RECORD]))
    given = [*small_run, "data.source=knowedit", "data.path=requests.json", "data.edits=null"]
    found = elder("validate", "demo", *given)
    assert found.code == 2
    assert "requests.json[1]: the prompt" in found.err
    assert "repeats requests.json[0]" in found.err


def test_a_long_file_says_how_far_it_is(
    elder: Elder, tmp_path: Path, small_run: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from elder.jobs.shared import checked_inputs

    monkeypatch.setattr(checked_inputs, "QUIET_S", 0.0)
    lines = (json.dumps({"prompt": f"P{i}", "target": "t"}) for i in range(250))
    (tmp_path / "edits.jsonl").write_text("\n".join(lines))
    given = [*small_run, "data.source=jsonl", "data.path=edits.jsonl", "data.edits=null"]
    found = elder("validate", "demo", *given)
    assert found.code == 0, found.err
    assert "read 200 edits in" in found.err
    assert "read 200 edits" not in found.out
