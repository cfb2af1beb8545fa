"""What every tracker must do. Inherit `TrackerContract` and give it a `tracker` fixture.

Everything may be said twice; the suite says everything twice.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from elder.pipelines.protocols import Tracker

CONFIG = {"name": "demo", "seed": 0, "editor": {"method": "elder", "rank": 8, "layers": [1, 2]}, "gates": {}}
TAGS = {"elder.git": "abc1234"}


def write_adapter(directory: Path, content: bytes = b"weights", source: str = "world:small") -> Path:
    """An adapter directory in the layout of `elder.adapter_files`, with made-up content."""
    directory.mkdir(parents=True)
    (directory / "adapter.safetensors").write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    manifest = {
        "format": 1,
        "method": "elder",
        "base": {"source": source, "digest": "b" * 64},
        "state_digest": "d" * 64,
        "edits": 10,
        "files": {"adapter.safetensors": {"sha256": digest, "bytes": len(content)}},
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


class TrackerContract:
    """The behaviour that pipelines rely on."""

    @pytest.fixture
    def tracker(self) -> Tracker:
        """A tracker of an empty server; subclasses override it."""
        raise NotImplementedError

    def test_start_twice_is_one_run(self, tracker: Tracker) -> None:
        first = tracker.start("run-1", "demo", CONFIG, TAGS)
        assert first
        assert tracker.start("run-1", "demo", CONFIG, TAGS) == first

    def test_a_run_below_another_is_a_run_of_its_own(self, tracker: Tracker) -> None:
        parent = tracker.start("search", "demo", CONFIG, TAGS)
        child = tracker.start("search-t0000", "trial", CONFIG, TAGS, parent)
        assert child not in ("", parent)
        assert tracker.start("search-t0000", "trial", CONFIG, TAGS, parent=parent) == child
        assert tracker.start("search", "demo", CONFIG, TAGS) == parent

    def test_two_runs_differ(self, tracker: Tracker) -> None:
        assert tracker.start("run-1", "demo", CONFIG, {}) != tracker.start("run-2", "demo", CONFIG, {})

    def test_everything_may_be_said_twice(self, tracker: Tracker, tmp_path: Path) -> None:
        file = tmp_path / "report.md"
        file.write_text("# report")
        tracker.start("run-1", "demo", CONFIG, TAGS)
        for _ in range(2):
            tracker.log_metrics({"reliability.generate": 1.0, "loss": float("nan"), "worst": float("inf")}, step=10)
            tracker.log_artifact(file)
            tracker.log_artifact(file, "report")
            tracker.log_dataset("world:small", "a" * 64, "world:small", 10)
            tracker.log_table("results", [{"edit_id": "x", "reliability.generate": True}, {"edit_id": "y", "extra": 1}])
            tracker.finish("FINISHED")

    def test_an_adapter_is_logged_once_for_each_stage(self, tracker: Tracker, tmp_path: Path) -> None:
        tracker.start("run-1", "demo", CONFIG, TAGS)
        adapter = write_adapter(tmp_path / "stage")
        first = tracker.log_adapter(0, adapter, {"reliability.generate": 1.0}, step=10)
        assert tracker.log_adapter(0, adapter, {"reliability.generate": 1.0}, step=10) == first
        assert tracker.log_adapter(1, adapter, {"reliability.generate": 0.5}, step=20) != first

    def test_what_is_logged_is_known_to_the_next_driver(self, tracker: Tracker, tmp_path: Path) -> None:
        tracker.start("run-1", "demo", CONFIG, TAGS)
        tracker.log_table("edits/stage-0000.json", [{"edit_id": "x"}])
        model = tracker.log_adapter(0, write_adapter(tmp_path / "stage"), {}, step=10)
        tracker.finish("FAILED")
        tracker.start("run-1", "demo", CONFIG, TAGS)
        assert tracker.logged(["edits/stage-0000.json"], [0]) == ({"edits/stage-0000.json"}, {0: model})
        assert tracker.logged([], []) == (set(), {})

    def test_register_is_once_for_each_model(self, tracker: Tracker, tmp_path: Path) -> None:
        tracker.start("run-1", "demo", CONFIG, TAGS)
        adapter = write_adapter(tmp_path / "stage")
        one, two = (tracker.log_adapter(stage, adapter, {}, step=stage) for stage in (0, 1))
        assert tracker.register(one, "facts", "candidate", {"who": "me"}) == 1
        assert tracker.register(two, "facts", "candidate", {}) == 2
        assert tracker.register(one, "facts", "champion", {"who": "you"}) == 1
        assert tracker.register(one, "other", None, {}) == 1

    @pytest.mark.parametrize("status", ["FINISHED", "FAILED", "KILLED"])
    def test_a_finished_run_can_be_taken_up_again(self, tracker: Tracker, status: str) -> None:
        first = tracker.start("run-1", "demo", CONFIG, {})
        tracker.finish(status)
        assert tracker.start("run-1", "demo", CONFIG, {}) == first

    def test_url_is_text_or_none(self, tracker: Tracker) -> None:
        tracker.start("run-1", "demo", CONFIG, {})
        url = tracker.url()
        assert url is None or url.startswith("http")
