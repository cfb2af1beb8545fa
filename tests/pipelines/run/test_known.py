"""Runs of known facts: asked once, kept with the run, the same for whoever continues it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import elder.metrics.known as asking
from elder.edit import Edit
from elder.errors import AdapterError, ConfigError, DataError
from elder.jobs.shared.checked_inputs import check_long_inputs
from elder.models.load import load_base
from elder.pipelines.config.run import RunConfig
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.inputs import KNOWN_NOTE, load_stream
from elder.pipelines.run.known import check_base
from elder.pipelines.run.known_record import KnownRecord
from elder.pipelines.run.local_runner import run_locally
from elder.pipelines.run.spec import RunSpec
from elder.runtime import LocalRuntime
from tests.cluster.tiny import make_edits, write_model
from tests.methods import small
from tests.pipelines.fakes import RecordingTracker, StoreAt, leave_out_plots, make_config

COUNT = 8


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model"), "llama", "5GB"))


@pytest.fixture(scope="module")
def edits(model: str) -> list[Edit]:
    """Every second old answer is what the model says, the others are not."""
    bare = [replace(edit, ground_truth="nothing") for edit in make_edits(COUNT)]
    said = asking.known_facts(load_base(model, runtime=LocalRuntime("cpu")), bare, None, 4, 4).said
    return [replace(edit, ground_truth=said[i]) if i % 2 else edit for i, edit in enumerate(bare)]


@pytest.fixture(autouse=True)
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_out_plots(monkeypatch)


def config_of(model: str, run_id: str = "run-1", **data: Any) -> RunConfig:
    return make_config(
        run_id=run_id,
        model={"source": model},
        data={"known": True, **data},
        stream={"stage_size": 2, "batch_size": 2},
        editor={"method": "elder", **{k: v for k, v in small("elder").items() if k not in ("batch_size", "layers")}},
        evaluation={"protocols": ["generate"], "parts": ["reliability"], "max_new_tokens": 4, "batch_size": 4},
    )


def run(root: Path, config: RunConfig, edits: list[Edit], **given: Any) -> dict[str, Any]:
    return run_edit(config, StoreAt(str(root / "store")), RecordingTracker(), edits=edits, **given)


def rows(root: Path, run_id: str = "run-1") -> list[str]:
    state = RunState(StoreAt(str(root / "store"))(), run_id)
    return [row["prompt"] for row in state.read_rows(state.commits()[-1])]


def never(*_: Any, **__: Any) -> Any:
    raise AssertionError("the model was asked again")


def test_only_known_facts_are_edited_and_the_others_are_listed(tmp_path: Path, model: str, edits: list[Edit]) -> None:
    notes: list[str] = []
    result = run(tmp_path, config_of(model), edits, on_event=lambda e: notes.append(str(e.get("text", ""))))
    assert rows(tmp_path) == [edits[i].prompt for i in (1, 3, 5, 7)]
    assert result["known"] == {"asked": COUNT, "kept": 4}
    assert len(result["unknown"]) == 4
    assert result["unknown"][0].startswith(f"'{edits[0].prompt}' -> 'nothing': the model says '")
    assert any("answers 4 of 8 facts right" in note for note in notes)
    report = (tmp_path / "store/runs/run-1/report/report.md").read_text()
    assert "4 of 8 facts" in report
    assert "The colour of t4 is" in report


def test_the_number_of_edits_counts_known_ones(tmp_path: Path, model: str, edits: list[Edit]) -> None:
    result = run(tmp_path, config_of(model, edits=2), edits)
    assert rows(tmp_path) == [edits[1].prompt, edits[3].prompt]
    assert result["known"] == {"asked": 4, "kept": 2}


def test_a_run_that_broke_off_takes_the_same_facts_and_asks_nothing(
    tmp_path: Path, model: str, edits: list[Edit], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stopped(Exception):
        pass

    def breaking(event: Mapping[str, Any]) -> None:
        if event["kind"] == "phase" and event["name"] == "edit" and event["stage"] == 1:
            raise Stopped

    with pytest.raises(Stopped):
        run(tmp_path, config_of(model), edits, on_event=breaking)
    monkeypatch.setattr(asking, "known_facts", never)
    result = run(tmp_path, config_of(model), edits)
    assert [stage["edits"] for stage in result["stages"]] == [2, 2]
    assert run(tmp_path, config_of(model), edits) == result  # it has ended
    with pytest.raises(ConfigError, match="was started with other edits"):
        run(tmp_path, config_of(model), edits[:4])


def test_another_run_of_the_store_need_not_ask(
    tmp_path: Path, model: str, edits: list[Edit], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = run(tmp_path, config_of(model), edits)
    with monkeypatch.context() as patch:
        patch.setattr(asking, "known_facts", never)
        assert run(tmp_path, config_of(model, "run-2"), edits)["known"] == first["known"]
        with pytest.raises(AssertionError, match="asked again"):  # another question
            run(tmp_path, config_of(model, "run-3", edits=1), edits)


def test_workers_get_the_known_facts_only(tmp_path: Path, model: str, edits: list[Edit]) -> None:
    jobs: list[RunSpec] = []

    def runner(job: RunSpec, report: Any) -> None:
        jobs.append(job)
        run_locally(job, report)

    run(tmp_path, config_of(model), edits, runner=runner)
    assert [len(job.edits) for job in jobs] == [COUNT, 4]
    assert jobs[1].known is not None
    with pytest.raises(AdapterError, match="Give back the old weights"):
        check_base(jobs[1], "another")


def test_no_known_fact_is_an_error_that_shows_what_was_said(tmp_path: Path, model: str, edits: list[Edit]) -> None:
    with pytest.raises(DataError, match="knows none of the 4 facts") as caught:
        run(tmp_path, config_of(model), edits[::2])
    assert len(caught.value.problems) == 5
    assert RunState(StoreAt(str(tmp_path / "store"))(), "run-1").record() is None


def test_a_damaged_record_is_told(tmp_path: Path) -> None:
    store = StoreAt(str(tmp_path))()
    assert KnownRecord.read(store, "known.json") is None
    whole = KnownRecord("d", "b", [1], {"0": "x"}, 2)
    store.put("known.json", whole.to_json())
    assert KnownRecord.read(store, "known.json") == whole
    for text in (b"{", b"[]", b"{}", whole.to_json().replace(b'"asked"', b'"questioned"')):
        store.put("known.json", text)
        with pytest.raises(AdapterError, match=r"known\.json is damaged"):
            KnownRecord.read(store, "known.json")


def test_data_without_old_answers_are_told_before_anything_starts(tmp_path: Path, model: str) -> None:
    path = tmp_path / "edits.jsonl"
    lines = [{"prompt": f"The colour of t{i} is", "target": "s1", "ground_truth": f"s{i}"} for i in (2, 3, 4)]
    path.write_text("\n".join(map(json.dumps, lines)))
    config = config_of(model, source="jsonl", path=str(path), edits=2)
    assert len(load_stream(config)) == 3  # which two are known, the run finds out
    assert KNOWN_NOTE in check_long_inputs(config, lambda line: None).notes
    path.write_text("\n".join(map(json.dumps, [*lines, {"id": "bare", "prompt": "what is t1 ?", "target": "s1"}])))
    for check in (load_stream, lambda config: check_long_inputs(config, lambda line: None)):
        with pytest.raises((DataError, ConfigError), match=r"1 edits have no old answer .* bare for example"):
            check(config)
