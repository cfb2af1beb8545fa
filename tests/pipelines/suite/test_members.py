"""What several runs share: an end for every one of them, whatever goes wrong with it, or with all of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from elder.errors import ConfigError, UnreachableError
from elder.pipelines.config.comparison import parse_compare_config
from elder.pipelines.run.commits import RunState
from elder.pipelines.suite.comparison_driver import run_compare
from elder.pipelines.suite.driver import SuiteIO
from elder.pipelines.suite.members import ChildTracker
from tests.pipelines.fakes import Mishap, RecordingTracker, StoreAt, leave_out_plots, make_edits
from tests.pipelines.suite.test_comparison import MethodKit, make_compare


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is tested elsewhere."""
    leave_out_plots(monkeypatch)


class World:
    """A comparison of two methods in a directory, with its trackers and events to look at."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.trackers: list[RecordingTracker] = []
        self.events: list[Mapping[str, Any]] = []

    def tracker(self) -> RecordingTracker:
        self.trackers.append(RecordingTracker())
        return self.trackers[-1]

    def outside(self, **more: Any) -> SuiteIO:
        kit = MethodKit(log=str(self.root / "log"))
        found = SuiteIO(
            StoreAt(str(self.root / "store")),
            self.tracker,
            self.events.append,
            edits=lambda run: make_edits(8),
            kit=kit,
        )
        return replace(found, **more)

    def state(self, method: str) -> RunState:
        return RunState(StoreAt(str(self.root / "store"))(), f"c1-{method}")


def test_a_damaged_record_of_one_method_is_its_own_failure(tmp_path: Path) -> None:
    world = World(tmp_path)
    stopped = MethodKit(
        log=str(tmp_path / "log"), victim="elder", mishaps=(Mishap("refuse", 5, str(tmp_path / "m"), once=False),)
    )
    first = run_compare(make_compare(), world.outside(kit=stopped))
    assert first.result["status"] == {"elder": "failed", "elder-plus": "finished"}
    damaged = world.state("elder")
    damaged.store.put(damaged.stage_key(0, "COMMIT.json"), b"{")
    came = run_compare(make_compare(), world.outside(out=tmp_path / "out"))
    assert came.result["status"] == {"elder": "failed", "elder-plus": "finished"}
    assert "COMMIT.json is damaged" in came.result["failed"]["elder"]
    assert came.result["right_after"]["elder"] == {}
    assert came.result["methods"]["elder"]["stages"] == []
    assert came.result["right_after"]["elder-plus"]["reliability.generate"] == 1.0
    assert "COMMIT.json is damaged" in (tmp_path / "out" / "report.md").read_text()


def test_an_unforeseen_error_leaves_its_traceback_and_an_explained_one_does_not(tmp_path: Path) -> None:
    for kind, wanted in (("raise", True), ("refuse", False)):
        world = World(tmp_path / kind)
        world.root.mkdir()
        mishaps = (Mishap(kind, 1, str(tmp_path / "never"), once=False),)
        kit = MethodKit(log=str(world.root / "log"), victim="elder", mishaps=mishaps)
        run_compare(make_compare(), world.outside(kit=kit))
        told = [event for event in world.events if "Traceback" in str(event.get("text"))]
        assert [event["member"] for event in told] == (["elder"] if wanted else []), kind


@pytest.mark.parametrize(
    ("error", "status"), [(KeyboardInterrupt, "KILLED"), (SystemExit, "KILLED"), (RuntimeError, "FAILED")]
)
def test_the_tracked_whole_says_how_it_ended(tmp_path: Path, error: type[BaseException], status: str) -> None:
    world = World(tmp_path)

    def runner(members: Any, shared: Any) -> Mapping[str, Any]:
        raise error

    with pytest.raises(error):
        run_compare(make_compare(), world.outside(runner=runner))
    assert [tracker.statuses for tracker in world.trackers] == [[status]]


def test_a_tracker_that_is_away_in_the_middle_ends_the_whole(tmp_path: Path) -> None:
    """The others would fare no better; what is committed stands."""
    world = World(tmp_path)

    def tracker() -> RecordingTracker:
        world.trackers.append(RecordingTracker({"start": 99} if world.trackers else {}))
        return world.trackers[-1]

    with pytest.raises(UnreachableError):
        run_compare(make_compare(), world.outside(tracker_factory=tracker))
    assert world.trackers[0].statuses == ["FAILED"]
    assert world.state("elder-plus").record() is None, "the second method has not begun"


def test_a_text_that_all_would_read_is_missed_before_anything_begins(tmp_path: Path) -> None:
    world = World(tmp_path)
    with pytest.raises(ConfigError, match=r"evaluation\.perplexity_text"):
        run_compare(make_compare(evaluation={"perplexity_text": str(tmp_path / "gone.txt")}), world.outside())
    assert world.trackers == []
    assert not (tmp_path / "store" / "compares").exists()


def test_a_display_that_breaks_in_a_members_event_harms_nothing(tmp_path: Path) -> None:
    world = World(tmp_path)

    def broken(event: Mapping[str, Any]) -> None:
        if event["kind"] in ("member", "note"):
            raise BrokenPipeError

    came = run_compare(make_compare({"elder": {}}), world.outside(on_event=broken))
    assert came.result["status"] == {"elder": "finished"}


def test_a_stream_is_read_once_for_all(tmp_path: Path) -> None:
    asked: list[int | None] = []

    def edits(run: Any) -> Any:
        asked.append(run.data.edits)
        return make_edits(run.data.edits or 8)

    world = World(tmp_path)
    run_compare(make_compare(data={"edits": 6}), world.outside(edits=edits))
    assert asked == [6]
    assert [world.state(method).commits()[-1].edits for method in ("elder", "elder-plus")] == [6, 6]


def test_a_text_is_read_once_for_all_that_name_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of two texts once, and by a method that is missing one again and again: that is its own failure."""
    read: list[tuple[Any, Any]] = []

    def windows(config: Any, tokenizer: Any, positions: Any) -> str:
        read.append((config.editor.options["text"], config.editor.options["text_tokens"]))
        if config.editor.options["text"] == "gone":
            raise ConfigError("editor.text: gone")
        return f"windows of {config.editor.options['text']}"

    monkeypatch.setattr("elder.pipelines.suite.members.read_windows", windows)
    monkeypatch.setattr("elder.pipelines.suite.members.read_tokenizer", lambda config, cache_dir: ("tokenizer", 64))
    methods = {"memit": {"text": "a"}, "rome": {"text": "a"}, "emmet": {"text": "a", "text_tokens": 9}}
    config = make_compare({**methods, "lost": {"method": "memit", "text": "gone"}, "elder": {}})
    came = run_compare(config, World(tmp_path).outside())
    assert came.result["status"] == {**dict.fromkeys(("memit", "rome", "emmet", "elder"), "finished"), "lost": "failed"}
    assert [text for text, _ in read] == ["a", "a", "gone"]
    assert read[1][1] == 9


def test_members_are_children_and_their_adapters_may_stay_out_of_the_tracker(tmp_path: Path) -> None:
    inner = RecordingTracker()
    (tmp_path / "manifest.json").write_text("{}")
    child = ChildTracker(inner, "top", adapters=False)
    assert child.log_adapter(0, tmp_path, {}, 1) == ""
    assert inner.adapters == {}
    assert ChildTracker(inner, "top").log_adapter(0, tmp_path, {}, 1)
    assert inner.adapters == {0: "{}"}
    child.log_metrics({"a": 1.0}, 3)
    assert inner.metrics == {3: {"a": 1.0}}


def test_a_dumped_comparison_of_an_ordinary_config_reads_back(tmp_path: Path) -> None:
    config = make_compare({"mine": {"method": "elder", "rank": 2}, "elder-plus": {}})
    again = config.read_back()
    assert again.digest() == config.digest()
    assert [member.config.run_id for member in again.members] == ["c1-mine", "c1-elder-plus"]
    with pytest.raises(ConfigError):
        parse_compare_config(json.dumps({"compare": {"methods": {"elder": 3}}}))
