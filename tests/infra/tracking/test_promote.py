"""Moving aliases: candidates, the history that is only added to, and two people at the same moment."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from elder.errors import ConfigError, InputError
from elder.infra.tracking.promote import (
    HISTORY,
    find_candidate,
    has_held,
    history,
    move_alias,
    previous_version,
    show_model,
    whoami,
)
from elder.infra.tracking.tracker import Connection, MlflowTracker, add_version, show
from tests.contracts.tracker import CONFIG, write_adapter

GATED = {**CONFIG, "gates": {"reliability": 0.9}, "evaluation": {"protocols": ["forced", "generate"]}}
BY = ("promote", "me@here", "because")


def fill(uri: Path | str, place: Path, name: str = "facts") -> Connection:
    """A run of three stages, of which the first two are versions of `name`, the first one as @champion."""
    tracker = MlflowTracker(uri, "promotion")
    tracker.start("run-1", "demo", {**GATED, "tracking": {"register": name}}, {})
    for stage in range(3):
        adapter = write_adapter(place / f"a{stage}", b"stage %d" % stage)
        model = tracker.log_adapter(stage, adapter, {"reliability.forced": 0.9 + stage / 100}, 10 * stage + 10)
        if stage < 2:
            tracker.register(model, name, "champion" if stage == 0 else None, {})
    tracker.finish("FINISHED")
    return Connection(uri)


@pytest.fixture
def mlflow(database: Path, tmp_path: Path) -> Connection:
    return fill(database, tmp_path)


def test_candidates(mlflow: Connection) -> None:
    for ref, stage, version in (
        ("models:/facts/2", 1, 2),
        ("models:/facts@champion", 0, 1),
        ("runs:/run-1/stage-0001", 1, 2),
        ("run-1", 2, None),
    ):
        found = find_candidate(mlflow, ref)
        assert (found.name, found.adapter.stage, found.version, found.run_status) == (
            "facts",
            stage,
            version,
            "FINISHED",
        )
        assert (found.gates, found.protocols) == ({"reliability": 0.9}, ("forced", "generate"))
        assert found.adapter.metrics == {"reliability.forced": 0.9 + stage / 100}
    assert find_candidate(mlflow, "models:/facts/2", "other").version is None
    assert find_candidate(mlflow, "run-1", "other").name == "other"
    with pytest.raises(InputError, match="there is no models:/facts/9"):
        find_candidate(mlflow, "models:/facts/9")


def test_a_run_without_a_name_or_config(database: Path, tmp_path: Path) -> None:
    tracker = MlflowTracker(database, "x")
    tracker.start("bare", "demo", {}, {})
    tracker.log_adapter(0, write_adapter(tmp_path / "a"), {}, 1)
    with pytest.raises(InputError, match="--name NAME"):
        find_candidate(Connection(database), "bare")
    assert find_candidate(Connection(database), "bare", "facts").gates is None


def test_every_move_is_kept(mlflow: Connection) -> None:
    first = move_alias(mlflow, "facts", "champion", 2, *BY)
    assert first is not None
    assert move_alias(mlflow, "facts", "champion", 2, *BY) is None  # it is there already
    move_alias(mlflow, "facts", "champion", 1, "rollback", "you", "", ["a", "b"])
    moves = history(mlflow, "facts")
    kept = [(r["action"], r["from"], r["to"], r["who"], r["why"], r["forced"], r["done"]) for r in moves]
    assert kept == [
        ("run", None, 1, whoami(), "the end of run run-1", False, True),
        ("promote", 1, 2, "me@here", "because", False, True),
        ("rollback", 2, 1, "you", "", True, True),
    ]
    assert [r["when"] for r in moves] == sorted(r["when"] for r in moves)
    assert moves[2]["failures"] == ["a", "b"]
    assert show(mlflow.location.database or "", "facts")["history"] == moves


def test_a_record_fits_into_the_database(mlflow: Connection) -> None:
    """PostgreSQL keeps 5,000 characters of a registered model's tag."""
    move_alias(mlflow, "facts", "champion", 2, "promote", "w" * 100, "ä" * 1000, ["f" * 1000] * 50)
    tags = mlflow.call("get_registered_model", "facts").tags
    assert max(len(value) for key, value in tags.items() if key.startswith(HISTORY)) < 5000
    with pytest.raises(ConfigError, match="--why"):
        move_alias(mlflow, "facts", "champion", 1, "promote", "me", "x" * 1001)


def test_where_an_alias_was_before(mlflow: Connection) -> None:
    with pytest.raises(InputError, match="no record says where it was before"):
        previous_version(mlflow, "facts", "champion")
    with pytest.raises(InputError, match="points nowhere"):
        previous_version(mlflow, "facts", "unknown")
    assert not has_held(mlflow, "facts", "champion", 2)
    move_alias(mlflow, "facts", "champion", 2, *BY)
    assert previous_version(mlflow, "facts", "champion") == 1
    assert has_held(mlflow, "facts", "champion", 1)
    assert not has_held(mlflow, "facts", "staging", 1)
    mlflow.call("set_registered_model_alias", "facts", "champion", "1")  # somebody moved it in MLflow's page
    move_alias(mlflow, "facts", "champion", 2, *BY)
    assert previous_version(mlflow, "facts", "champion") == 1


def test_a_process_that_dies_in_between_leaves_a_record_that_says_so(
    mlflow: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    call = Connection.call

    def dying(self: Connection, method: str, *args: Any, **kwargs: Any) -> Any:
        if method == "set_registered_model_alias":
            raise KeyboardInterrupt
        return call(self, method, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(Connection, "call", dying)
        with pytest.raises(KeyboardInterrupt):
            move_alias(mlflow, "facts", "champion", 2, *BY)
    assert [record["done"] for record in history(mlflow, "facts")] == [True, False]
    assert not has_held(mlflow, "facts", "champion", 2)
    assert show_model(mlflow, "facts")["aliases"] == {"champion": 1}


def test_an_unregistered_stage_becomes_a_version_once(mlflow: Connection) -> None:
    found = find_candidate(mlflow, "run-1")
    assert [add_version(mlflow, found.adapter.model_id, "facts", {"a": "b"}) for _ in range(2)] == [3, 3]
    assert find_candidate(mlflow, "run-1").version == 3
    rows = show_model(mlflow, "facts")["versions"]
    assert [(row["version"], row["stage"], row["aliases"]) for row in rows] == [
        (1, 0, ["champion"]),
        (2, 1, []),
        (3, 2, []),
    ]
    stage = show(mlflow.location.database or "", "run-1")["stages"][2]
    assert stage["registered"] == [{"name": "facts", "version": 3, "aliases": []}]


def test_show_of_a_model_that_is_not_there(mlflow: Connection) -> None:
    for name in ("models:/nothing", "nothing"):
        with pytest.raises(InputError, match="no r"):
            show(mlflow.location.database or "", name)


@pytest.mark.cluster
def test_two_at_the_same_moment_both_leave_their_record(proxied_mlflow: str, tmp_path: Path) -> None:
    """On a real server: the last one stands, and the history has both."""
    fill(proxied_mlflow, tmp_path, "contested")
    add_version(
        Connection(proxied_mlflow),
        find_candidate(Connection(proxied_mlflow), "run-1").adapter.model_id,
        "contested",
        {},
    )
    barrier = threading.Barrier(2)

    def promote(version: int) -> None:
        mine = Connection(proxied_mlflow)
        barrier.wait(30)
        move_alias(mine, "contested", "champion", version, "promote", f"thread {version}")

    threads = [threading.Thread(target=promote, args=(version,)) for version in (2, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = show_model(Connection(proxied_mlflow), "contested")
    assert {record["who"] for record in found["history"] if record["action"] == "promote"} == {"thread 2", "thread 3"}
    assert all(record["done"] for record in found["history"])
    assert found["aliases"]["champion"] in (2, 3)
