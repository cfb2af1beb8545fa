"""The commit protocol: what is visible, what is refused, what is verified."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from elder.errors import AdapterError, ConfigError, ElderError
from elder.infra.stores.local import LocalStore
from elder.pipelines.run.commits import COMMIT, Commit, RunState
from tests.pipelines.fakes import make_config


def commit(stage: int = 0, state: str = "s0", parent: str = "", **changes: object) -> Commit:
    made = Commit(
        stage=stage, attempt="a", first=stage * 4, edits=stage * 4 + 4, state_digest=state, parent=parent,
        config_digest="c", files={}, base={"id": "b", "digest": "d"}, metrics={"m": 1.0}, retention=[1.0],
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


@pytest.fixture
def state(tmp_path: Path) -> RunState:
    return RunState(LocalStore(tmp_path / "store"), "run-1")


def test_uploaded_is_not_committed(state: RunState, tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"weights")
    files = state.upload(0, "a", [tmp_path / "adapter.safetensors"])
    assert state.store.list("runs/run-1/stages/") == ["runs/run-1/stages/000000/a/adapter.safetensors"]
    assert state.commits() == []
    state.commit(commit(files=files))
    assert [c.stage for c in state.commits()] == [0]
    assert state.commits()[0] == commit(files=files)


def test_two_writers_of_one_state_agree_and_the_first_stands(state: RunState) -> None:
    assert state.commit(commit(attempt="first")).attempt == "first"
    assert state.commit(commit(attempt="second")).attempt == "first"
    assert state.commits()[0].attempt == "first"


@pytest.mark.parametrize("changes", [{"state": "other"}, {"config_digest": "other"}])
def test_another_state_of_the_same_stage_is_refused(state: RunState, changes: dict[str, str]) -> None:
    state.commit(commit())
    with pytest.raises(ElderError, match="another driver owns this run"):
        state.commit(commit(**changes))  # type: ignore[arg-type]
    assert state.commits()[0].state_digest == "s0"


def test_a_gap_is_an_error(state: RunState) -> None:
    state.commit(commit(0))
    state.commit(commit(2, "s2", "s1"))
    with pytest.raises(AdapterError, match="stage 1 is missing"):
        state.commits()


def test_a_stage_that_does_not_follow_is_an_error(state: RunState) -> None:
    state.commit(commit(0, "s0"))
    state.commit(commit(1, "s1", "not s0"))
    with pytest.raises(AdapterError, match="stage 1 does not follow"):
        state.commits()


def test_a_damaged_commit_is_an_error(state: RunState) -> None:
    state.store.put(state.stage_key(0, COMMIT), b"{")
    with pytest.raises(AdapterError, match=r"000000/COMMIT.json is damaged"):
        state.commits()


def test_fetch_verifies_what_was_committed(state: RunState, tmp_path: Path) -> None:
    (tmp_path / "adapter.safetensors").write_bytes(b"weights")
    made = commit(files=state.upload(0, "a", [tmp_path / "adapter.safetensors"]))
    place = state.fetch(made, tmp_path / "fetched", ["adapter.safetensors"])
    assert (place / "adapter.safetensors").read_bytes() == b"weights"
    state.store.put(state.stage_key(0, "a/adapter.safetensors"), b"Weights")
    with pytest.raises(AdapterError):
        state.fetch(made, tmp_path / "again", ["adapter.safetensors"])
    state.store.delete(state.stage_key(0, "a/adapter.safetensors"))
    with pytest.raises(AdapterError, match="committed but missing"):
        state.fetch(made, tmp_path / "again", ["adapter.safetensors"])


def test_the_same_run_opens_again_also_with_other_workers(state: RunState) -> None:
    state.open(make_config(), "data", 10)
    state.open(make_config(cluster={"workers": 2}), "data", 10)


def test_another_config_is_refused_and_every_difference_is_named(state: RunState) -> None:
    state.open(make_config(), "data", 10)
    with pytest.raises(ConfigError) as caught:
        state.open(make_config(seed=5, stream={"stage_size": 8}), "data", 10)
    assert "seed: 0 -> 5" in str(caught.value)
    assert "stream.stage_size: 4 -> 8" in str(caught.value)


def test_other_edits_are_refused(state: RunState) -> None:
    state.open(make_config(), "data", 10)
    with pytest.raises(ConfigError, match="started with other edits"):
        state.open(make_config(), "other data", 10)


def test_the_first_result_stands(state: RunState) -> None:
    assert state.result() is None
    state.finish({"run_id": "run-1", "final": {"x": 1.0}})
    state.finish({"run_id": "run-1", "final": {"x": 2.0}})
    assert state.result() == {"run_id": "run-1", "final": {"x": 1.0}}
