"""Edits that are applied apart: each batch on the unedited model, measured right after, taken back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from elder.errors import ConfigError, ElderError
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.run.commits import RunState, adapter_files
from elder.pipelines.run.isolated_loop import totals
from elder.pipelines.run.run_stages import run_stages
from elder.pipelines.run.spec import RunSpec
from elder.runtime import LocalRuntime
from elder.state import state_digest
from tests.pipelines.fakes import (
    FakeEditor,
    FakeKit,
    FakeMeter,
    Mishap,
    RecordingTracker,
    StoreAt,
    make_config,
    make_edits,
)

APART = {"strategy": "isolated", "stage_size": 4}


class SpyMeter(FakeMeter):
    """Remembers the editor's state whenever it is asked."""

    def measure(self, edits: Any, parts: Any, progress: Any = None, so_far: Any = None) -> Any:
        self.editor.seen.append((len(self.editor.ids), state_digest(self.editor.state_dict())))  # type: ignore[attr-defined]
        return super().measure(edits, parts, progress)


class SpyKit(FakeKit):
    """Keeps the editor where a test can see it."""

    editors: list[FakeEditor] = []

    def editor(self, job: RunSpec, base: Any) -> Any:
        found = super().editor(job, base)
        found.seen = []
        self.editors.append(found)
        return found

    def meter(self, job: RunSpec, editor: Any) -> Any:
        return SpyMeter(editor)


def run(root: Path, edits: int = 6, batch: int = 1, kit: FakeKit | None = None, run_id: str = "run-1") -> RunState:
    config = make_config(run_id=run_id, stream={**APART, "batch_size": batch})
    job = RunSpec(config=config, edits=tuple(make_edits(edits)), store_factory=StoreAt(str(root)), kit=kit or FakeKit())
    run_stages(job, LocalRuntime(), lambda event: None)
    return RunState(StoreAt(str(root))(), run_id)


def test_every_edit_meets_the_unedited_model_and_is_taken_back(tmp_path: Path) -> None:
    kit = SpyKit()
    kit.editors.clear()
    run(tmp_path, kit=kit)
    editor = kit.editors[-1]
    assert [count for count, _ in editor.seen] == [1] * 6  # type: ignore[attr-defined]
    assert editor.ids == []
    untouched = FakeEditor(editor.base, 1, 0)
    assert state_digest(editor.state_dict()) == state_digest(untouched.state_dict())


def test_a_single_edit_is_what_a_run_of_that_edit_alone_gives(tmp_path: Path) -> None:
    kit = SpyKit()
    kit.editors.clear()
    run(tmp_path, kit=kit)
    apart = [digest for _, digest in kit.editors[-1].seen]  # type: ignore[attr-defined]
    for number, edit in enumerate(make_edits(6)):
        config = make_config(run_id=f"alone-{number}", stream={"stage_size": 1, "batch_size": 1})
        job = RunSpec(config=config, edits=(edit,), store_factory=StoreAt(str(tmp_path)), kit=FakeKit())
        run_stages(job, LocalRuntime(), lambda event: None)
        alone = RunState(StoreAt(str(tmp_path))(), f"alone-{number}").commits()[0]
        assert alone.state_digest == apart[number]


def test_larger_batches_are_taken_back_whole(tmp_path: Path) -> None:
    kit = SpyKit()
    kit.editors.clear()
    run(tmp_path, batch=2, kit=kit)
    assert [count for count, _ in kit.editors[-1].seen] == [2, 2, 2]  # type: ignore[attr-defined]


def test_rows_of_all_edits_stand_in_the_last_stage_and_no_adapter_does(tmp_path: Path) -> None:
    commits = (state := run(tmp_path)).commits()
    assert [commit.edits for commit in commits] == [4, 6]
    assert [row["edit"] for row in state.read_rows(commits[-1])] == list(range(6))
    assert [row["stage"] for row in state.read_rows(commits[-1])] == [0, 0, 0, 0, 1, 1]
    assert adapter_files(commits[0]) == []
    assert commits[-1].retention == []


def test_a_resumed_run_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    whole = run(tmp_path / "a").commits()
    broken = FakeKit(mishaps=(Mishap("raise", 0, str(tmp_path / "never"), once=False, after=str(tmp_path / "now")),))
    config = make_config(stream={**APART, "batch_size": 1})
    job = RunSpec(config=config, edits=tuple(make_edits(6)), store_factory=StoreAt(str(tmp_path / "b")), kit=broken)

    def stop(stage: int, metrics: Any) -> bool:
        (tmp_path / "now").touch()
        return True

    with pytest.raises(ValueError, match="stumbled"):
        run_stages(job, LocalRuntime(), lambda event: None, stop)
    rest = run(tmp_path / "b")
    assert [c.state_digest for c in rest.commits()] == [c.state_digest for c in whole]
    assert [c.metrics for c in rest.commits()] == [c.metrics for c in whole]
    assert rest.read_rows(rest.commits()[-1])[0]["stage"] == 0


def test_a_method_that_does_not_come_back_is_refused(tmp_path: Path) -> None:
    class Sticky(FakeEditor):
        def load_state_dict(self, state: Any) -> None:
            self.ids = []  # the vector stays

    class StickyKit(FakeKit):
        def editor(self, job: RunSpec, base: Any) -> Any:
            return Sticky(base, 1, 0)

    with pytest.raises(ElderError, match="taken back"):
        run(tmp_path, kit=StickyKit())


def test_totals_are_means_over_all_edits_and_s_is_made_of_means() -> None:
    rows = [
        {"counterfact.ES": 1.0, "counterfact.PS": 0.5, "counterfact.NS": 1.0},
        {"counterfact.ES": 0.0, "counterfact.PS": 0.5, "counterfact.NS": 0.0},
    ]
    names = {"counterfact.ES", "counterfact.PS", "counterfact.NS", "counterfact.S", "whole"}
    found = totals(rows, names, [(1, {"whole": 2.0, "counterfact.S": 0.9}), (1, {"whole": 4.0})], None)
    assert found["counterfact.ES"] == 0.5
    assert found["counterfact.S"] == pytest.approx(0.5)
    assert found["whole"] == 3.0


def test_the_result_and_the_tracker_know_of_no_adapter(tmp_path: Path) -> None:
    tracker = RecordingTracker()
    config = make_config(stream={**APART, "batch_size": 1}, evaluation={"probes": 0})
    result = run_edit(config, StoreAt(str(tmp_path)), tracker, edits=make_edits(6), kit=FakeKit())
    assert result["adapter"]["bytes"] == 0
    assert result["retention"] == []
    assert tracker.adapters == {}
    assert sorted(tracker.metrics) == [4, 6]


def test_what_needs_an_adapter_is_refused_early() -> None:
    with pytest.raises(ConfigError) as caught:
        make_config(stream=APART, tracking={"register": "x"}, gates={"perplexity": 2.0})
    assert "tracking.register" in str(caught.value)
    assert "gates.perplexity" in str(caught.value)
