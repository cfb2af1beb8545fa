"""Studies without a model: which runs they are made of, what is written, and how they go on."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from elder.edit import Edit
from elder.errors import ConfigError, GateError
from elder.pipelines.config.files import packaged_configs
from elder.pipelines.config.study import StudyConfig, load_study_config, parse_study_config
from elder.pipelines.run.spec import RunSpec
from elder.pipelines.suite.driver import SuiteIO, SuiteOutcome
from elder.pipelines.suite.members import outcome_error
from elder.pipelines.suite.study_driver import run_study
from elder.pipelines.suite.study_report import read_published
from tests.pipelines.fakes import (
    FakeEditor,
    FakeKit,
    FakeMeter,
    FakeReport,
    RecordingTracker,
    StoreAt,
    leave_out_plots,
    make_edits,
)

PARTS = {
    "batch": {"values": [1, 4], "strategies": ["batch"], "edits": 6},
    "stream": {"values": [2, 4], "strategies": ["sequential", "sequential-batched"], "edits": 8, "methods": ["elder"]},
    "layers": {"axis": "layers", "values": [2, 3], "strategies": ["single"], "edits": 3, "methods": ["elder"]},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing is tested elsewhere."""
    leave_out_plots(monkeypatch)


class ScoreMeter(FakeMeter):
    """CounterFact's scores: ES holds when the edit does, NS is lower the more edits are in the model."""

    def measure(
        self, edits: Sequence[Edit], parts: Sequence[str], progress: Any = None, so_far: Any = None
    ) -> FakeReport:
        report = super().measure(edits, parts, progress)
        crowd = 1 - len(self.editor.ids) / 16
        for row in report.rows:
            row |= {"counterfact.ES": row["reliability.generate"], "counterfact.PS": 0.5, "counterfact.NS": crowd}
        means = {"counterfact.ES": 1.0, "counterfact.PS": 0.5, "counterfact.NS": crowd, "counterfact.S": 0.0}
        report.metrics |= means
        return report


@dataclass(frozen=True)
class StudyKit(FakeKit):
    """Every run leaves a line when its editor is made."""

    log: str = ""

    def editor(self, job: RunSpec, base: Any) -> Any:
        with Path(self.log).open("a") as file:
            file.write(f"{job.config.run_id}\n")
        return FakeEditor(base, job.config.stream.batch_size, job.config.seed)

    def meter(self, job: RunSpec, editor: Any) -> Any:
        return ScoreMeter(editor)


def make_study(parts: Any = None, **sections: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "name": "test",
        "run_id": "s1",
        "data": {"edits": 8},
        "stream": {"stage_size": 4, "batch_size": 2},
        "evaluation": {"protocols": ["generate"], "probes": 0, "parts": ["reliability", "counterfact"]},
        "cluster": {"workers": 0},
        "tracking": {"mlflow": "unused.db", "retry_timeout_s": 0},
        "study": {
            "methods": {"elder": {}, "other": {"method": "elder", "rank": 2}},
            "parts": parts or PARTS,
            "published": "llama3_study",
        },
    }
    for name, section in sections.items():
        values[name] = {**values.get(name, {}), **section}
    return parse_study_config(json.dumps(values), "s.yaml")


def study(root: Path, config: StudyConfig | None = None) -> SuiteOutcome:
    outside = SuiteIO(
        StoreAt(str(root / "store")), RecordingTracker, out=root / "out",
        edits=lambda run: make_edits(run.data.edits or 8), kit=StudyKit(log=str(root / "log")),
    )  # fmt: skip
    return run_study(config or make_study(), outside)


def test_runs_are_what_parts_methods_strategies_and_values_say() -> None:
    config = make_study()
    found = {
        m.name: (m.config.stream.strategy, m.config.stream.batch_size, m.config.stream.stage_size, m.config.data.edits)
        for m in config.members
    }
    assert found == {
        "batch-elder-batch-b0001": ("isolated", 1, 4, 6),
        "batch-elder-batch-b0004": ("isolated", 4, 4, 6),
        "batch-other-batch-b0001": ("isolated", 1, 4, 6),
        "batch-other-batch-b0004": ("isolated", 4, 4, 6),
        "stream-elder-seq-b0001": ("stream", 1, 4, 8),
        "stream-elder-sb-b0002": ("stream", 2, 4, 8),
        "stream-elder-sb-b0004": ("stream", 4, 4, 8),
        "layers-elder-single-l0002": ("isolated", 1, 4, 3),
        "layers-elder-single-l0003": ("isolated", 1, 4, 3),
    }
    layers = [m.config.editor.options["layers"] for m in config.members if m.name.startswith("layers")]
    assert layers == [[2], [3]]
    assert config.members[2].config.editor.options["rank"] == 2


def test_a_batch_that_is_larger_than_the_part_gets_enough_edits() -> None:
    config = make_study({"big": {"values": [8], "strategies": ["batch"], "edits": 6, "methods": ["elder"]}})
    stream = config.members[0].config.stream
    assert (config.members[0].config.data.edits, stream.batch_size, stream.stage_size) == (8, 8, 8)


def test_on_the_axis_of_blocks_streams_have_the_batches_of_the_config() -> None:
    part = {"axis": "layers", "values": [2], "strategies": ["single", "batch", "sequential", "sequential-batched"]}
    members = make_study({"p": {**part, "edits": 6, "methods": ["elder"]}}).members
    assert [m.config.stream.batch_size for m in members] == [1, 6, 1, 2]


def test_fewer_edits_than_a_batch_asks_for_are_said(tmp_path: Path) -> None:
    config = make_study({"p": {"values": [4, 16], "strategies": ["batch"], "edits": 4, "methods": ["elder"]}})
    outside = SuiteIO(
        StoreAt(str(tmp_path / "store")), RecordingTracker, out=tmp_path / "out",
        edits=lambda run: make_edits(min(run.data.edits or 8, 10)), kit=StudyKit(log=str(tmp_path / "log")),
    )  # fmt: skip
    runs = run_study(config, outside).result["runs"]
    assert {name: run["edits"] for name, run in runs.items()} == {"p-elder-batch-b0004": 4, "p-elder-batch-b0016": 10}
    assert "The data hold fewer edits" in (tmp_path / "out" / "report.md").read_text()
    study(tmp_path / "whole", make_study({"p": {"values": [4], "strategies": ["batch"], "edits": 4}}))
    assert "The data hold fewer" not in (tmp_path / "whole" / "out" / "report.md").read_text()


def test_a_study_measures_each_run_as_its_strategy_says(tmp_path: Path) -> None:
    came = study(tmp_path)
    runs = came.result["runs"]
    assert {run["status"] for run in runs.values()} == {"finished"}
    scores = {name: run["right_after"]["counterfact.NS"] for name, run in runs.items()}
    assert scores["batch-elder-batch-b0001"] == pytest.approx(1 - 1 / 16)
    assert scores["batch-elder-batch-b0004"] == pytest.approx((4 * (1 - 4 / 16) + 2 * (1 - 2 / 16)) / 6)
    assert runs["stream-elder-sb-b0002"]["final"]["counterfact.NS"] == pytest.approx(1 - 8 / 16)
    single = runs["layers-elder-single-l0002"]["right_after"]
    assert single["counterfact.S"] == pytest.approx(3 / (1 + 1 / 0.5 + 1 / (15 / 16)))
    with (tmp_path / "out" / "study.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert {row["axis"] for row in rows} == {"batch_size", "layers"}
    page = (tmp_path / "out" / "report.md").read_text()
    assert "Quoted, not measured here" in page
    assert (tmp_path / "out" / "plots" / "batch_counterfact.png").exists()
    assert (tmp_path / "store" / "studies" / "s1" / "report" / "report.md").read_text() == page


def test_finished_runs_are_not_done_again(tmp_path: Path) -> None:
    short = {"p": {"values": [2], "strategies": ["batch", "sequential-batched"], "edits": 4, "methods": ["elder"]}}
    first = study(tmp_path, make_study(short))
    (tmp_path / "log").unlink()
    again = study(tmp_path, make_study(short))
    assert not (tmp_path / "log").exists()
    assert again.result["runs"] == first.result["runs"]


def test_refused_runs_do_not_sink_the_others(tmp_path: Path) -> None:
    parts = {"p": {"values": [2], "strategies": ["batch", "sequential-batched"], "edits": 4, "methods": ["elder"]}}
    config = make_study(parts, gates={"reliability": 1.0})
    came = study(tmp_path, config)
    assert outcome_error(came.ended) is None
    strict = make_study({"p": {**parts["p"], "values": [4]}}, gates={"reliability": 1.0, "locality": 0.5},
                        evaluation={"parts": ["reliability", "locality", "counterfact"]})  # fmt: skip
    came = study(tmp_path / "b", strict)
    assert set(came.result["failed"]) == {"p-elder-batch-b0004", "p-elder-sb-b0004"}
    assert isinstance(outcome_error(came.ended), GateError)


def test_mistakes_are_named_with_their_place() -> None:
    with pytest.raises(ConfigError) as caught:
        make_study({"p": {"values": [], "strategies": ["bacth"], "methods": ["nobody"], "axis": "layer"}})
    text = str(caught.value)
    for part in ("study.parts.p.values", "study.parts.p.strategies", "'nobody'", "study.parts.p.axis"):
        assert part in text
    with pytest.raises(ConfigError, match="nothing to study"):
        parse_study_config("name: x\n")
    with pytest.raises(ConfigError, match=r"study\.published"):
        read_published("nothing")


@pytest.mark.parametrize("name", [name for name in packaged_configs() if name.startswith("studies/")])
def test_every_shipped_study_loads(name: str) -> None:
    config = load_study_config(name)
    assert config.members
    assert parse_study_config(config.dump_yaml()).digest() == config.digest()
