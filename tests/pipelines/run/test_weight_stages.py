"""Weight editors in stages, with real models: broken off and resumed, statistics in the store, another text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import elder.targets.load_or_collect as supply
from elder.errors import AdapterError, ConfigError, DataError
from elder.jobs.shared.preflight import check_inputs
from elder.pipelines.edit.driver import run_edit
from elder.pipelines.run.commits import RunState
from elder.pipelines.run.inputs import skipped_of
from elder.pipelines.run.local_runner import run_locally
from elder.pipelines.run.spec import RunSpec
from tests.cluster.tiny import SHADES, THINGS, make_edits, write_model
from tests.pipelines.fakes import RecordingTracker, StoreAt, make_config

SHARED = {"steps": 3, "contexts": 1, "context_tokens": 4, "jitter": 0.1, "text_tokens": None}
METHODS: dict[str, dict[str, Any]] = {
    "rome": {"layers": [1]},
    "memit": {"layers": [1, 2], "ridge": 0.1},
    "emmet": {"layers": [1, 2]},
    "alphaedit": {"layers": [1, 2], "ridge": 0.1, "threshold": 0.5, "relative": True},
}
COUNT = 6  # in three stages of two


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model"), "llama", "5GB"))


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"The colour of t{i} is s{j} ." for i in range(THINGS) for j in range(0, SHADES, 5)))
    return str(path)


def make_job(root: Path, method: str, model: str, text: str | None, **options: Any) -> RunSpec:
    config = make_config(
        model={"source": model},
        stream={"stage_size": 2, "batch_size": 2},
        editor={"method": method, **SHARED, **METHODS[method], "text": text, **options},
        evaluation={"protocols": ["forced"], "parts": ["reliability"]},
    )
    return RunSpec(config, make_edits(COUNT), StoreAt(str(root / "store")))


def digests(job: RunSpec) -> list[str]:
    return [commit.state_digest for commit in RunState(job.store_factory(), job.config.run_id).commits()]


class Stopped(Exception):
    """The process ends here."""


def breaking(stage: int) -> Any:
    def report(event: Mapping[str, Any]) -> None:
        if event["kind"] == "phase" and event["name"] == "edit" and event["stage"] == stage:
            raise Stopped

    return report


def quiet(event: Mapping[str, Any]) -> None:
    pass


@pytest.mark.parametrize("method", METHODS)
def test_a_run_that_broke_off_ends_as_the_undisturbed_one(
    method: str, tmp_path: Path, model: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, broken = (make_job(tmp_path / name, method, model, text) for name in ("a", "b"))
    run_locally(straight, quiet)
    with pytest.raises(Stopped):
        run_locally(broken, breaking(1))
    assert digests(broken) == digests(straight)[:1]
    monkeypatch.setattr(supply, "collect_moments", _no_pass)  # the second process finds the statistics in the store
    run_locally(broken, quiet)
    assert digests(broken) == digests(straight)
    assert len(set(digests(straight))) == 3


def _no_pass(*_: Any, **__: Any) -> Any:
    raise AssertionError("the text was run through the model")


def test_another_run_finds_the_statistics_and_says_so(
    tmp_path: Path, model: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_job(tmp_path, "memit", model, text)
    events: list[Any] = []
    run_locally(first, events.append)
    assert {"kind": "phase", "name": "prepare", "stage": None} in events
    last = [event for event in events if event["kind"] == "prepared"][-1]
    assert last["done"] == last["of"] > 0
    kept = first.store_factory().list("statistics/")
    assert len(kept) == 2
    monkeypatch.setattr(supply, "collect_moments", _no_pass)
    second = make_job(tmp_path, "alphaedit", model, text)
    second = replace(second, config=second.config.replace(run_id="run-2"))
    told: list[Any] = []
    run_locally(second, told.append)
    assert any("were there already" in event["text"] for event in told if event["kind"] == "note")
    assert second.store_factory().list("statistics/") == kept


def test_damaged_statistics_are_taken_again(tmp_path: Path, model: str, text: str) -> None:
    straight, job = (make_job(tmp_path / name, "memit", model, text) for name in ("a", "b"))
    run_locally(straight, quiet)
    with pytest.raises(Stopped):
        run_locally(job, breaking(1))
    store = job.store_factory()
    key = store.list("statistics/")[0]
    whole = store.get(key)
    store.put(key, whole[:-8] + b"\0" * 8)
    events: list[Any] = []
    run_locally(job, events.append)
    assert any("taken again" in event["text"] for event in events if event["kind"] == "note")
    assert digests(job) == digests(straight)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_does_not_go_on_with_another_text(method: str, tmp_path: Path, model: str, text: str) -> None:
    job = make_job(tmp_path, method, model, text)
    with pytest.raises(Stopped):
        run_locally(job, breaking(1))
    before = digests(job)
    Path(text).write_text("\n".join(f"what has t{i} ?" for i in range(THINGS)))
    with pytest.raises(AdapterError, match=r"another text.*editor\.text"):
        run_locally(job, quiet)
    assert digests(job) == before


def test_the_driver_reads_the_text_for_workers_that_do_not_see_it(tmp_path: Path, model: str, text: str) -> None:
    job = make_job(tmp_path, "memit", model, text)

    def elsewhere(there: RunSpec, report: Any) -> None:
        assert there.windows is not None
        Path(text).unlink()
        run_locally(there, report)

    run_edit(job.config, job.store_factory, RecordingTracker(), edits=list(job.edits), runner=elsewhere)
    assert len(digests(job)) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text": None}, r"editor\.text: .* brings none"),
        ({"text": "no/such.txt"}, r"editor\.text: no/such\.txt: no such file"),
        ({"text_tokens": 10**7}, r"editor\.text_tokens: .* 10,000,000 are asked for"),
        ({"layers": [1, 4]}, r"editor\.layers: the model has blocks 0 to 3, there is no block 4"),
    ],
)
def test_what_is_wrong_is_told_before_anything_starts(
    tmp_path: Path, model: str, text: str, options: dict[str, Any], message: str
) -> None:
    job = make_job(tmp_path, "memit", model, **{"text": text, **options})
    with pytest.raises(ConfigError, match=message):
        check_inputs(_with_data(job, tmp_path))
    with pytest.raises(ConfigError, match=message):
        run_edit(job.config, job.store_factory, RecordingTracker(), edits=list(job.edits))
    assert job.store_factory().list("") == []


def test_edits_without_a_subject_are_told_by_id_before_anything_starts(tmp_path: Path, model: str, text: str) -> None:
    job = make_job(tmp_path, "memit", model, text)
    bad = _with_data(job, tmp_path, '{"id": "lost", "prompt": "The colour of t1 is", "target": "s1", "subject": "t2"}')
    for check in (lambda: check_inputs(bad), lambda: run_edit(bad, job.store_factory, RecordingTracker())):
        with pytest.raises((ConfigError, DataError), match="edit lost: the subject 't2' does not stand in"):
            check()
    assert job.store_factory().list("") == []
    check_inputs(bad.replace(editor=make_config(editor={"method": "elder"}).editor))  # others need no subject


def test_records_that_cannot_be_edited_are_left_out_and_listed_where_asked(
    tmp_path: Path, model: str, text: str
) -> None:
    good = '{"prompt": "The colour of t1 is", "target": "s1", "subject": "t1"}'
    lost = '{"id": "lost", "prompt": "The colour of t2 is", "target": "s1", "subject": "t9"}'
    job = make_job(tmp_path, "memit", model, text)
    config = _with_data(job, tmp_path, f'{good}\n{lost}\n{{"prompt": "The colour of t3 is"}}\n')
    config = config.replace(data=config.data.replace(unusable="skip"))
    notes: list[Mapping[str, Any]] = []
    found = run_edit(config, job.store_factory, RecordingTracker(), notes.append)
    assert found["stages"][0]["edits"] == 1
    assert len(found["skipped"]) == 2
    assert "edits.jsonl:3: field 'target' is missing" in found["skipped"][0]
    assert "edits.jsonl:2: edit lost: the subject 't9' does not stand in" in found["skipped"][1]
    assert any("2 records were left out" in str(note.get("text")) for note in notes)
    assert skipped_of(check_inputs(config).edits) == tuple(found["skipped"])
    ends = config.replace(editor=make_job(tmp_path, "memit", model, text, fact_token="last").config.editor)
    assert len(skipped_of(check_inputs(ends).edits)) == 1  # it needs no subject


def _with_data(job: RunSpec, root: Path, line: str | None = None) -> Any:
    path = root / "edits.jsonl"
    path.write_text(line or '{"prompt": "The colour of t1 is", "target": "s1", "subject": "t1"}')
    return job.config.replace(data=job.config.data.replace(source="jsonl", path=str(path)))
