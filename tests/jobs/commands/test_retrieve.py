"""`elder promote`, `rollback`, `show`, `runs`, `pull` through the command line, on a record in a sqlite file."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from elder.infra.tracking.tracker import MlflowTracker
from tests.contracts.tracker import write_adapter
from tests.jobs.conftest import Elder

EVALUATION = {"protocols": ["generate", "forced"]}


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with a gated run of three stages (0.95, 0.80, 0.99), a failed run, and a search with two trials."""
    place = tmp_path_factory.mktemp("record")
    uri = place / "mlflow.db"
    tracking = {"register": "facts"}
    gated = {"gates": {"reliability": 0.9}, "evaluation": EVALUATION, "tracking": tracking}
    run(uri, place / "good", "good", gated, [0.95, 0.80, 0.99], {0: "champion"})
    run(uri, place / "failed", "failed", {"evaluation": EVALUATION, "tracking": tracking}, [0.99], {}, "FAILED")
    run(uri, place / "free", "free", {"evaluation": EVALUATION, "tracking": tracking}, [0.5], {})
    search = MlflowTracker(uri, "test")
    parent = search.start("search", "search", {}, {})
    for number, rank in enumerate((4, 8)):
        trial = MlflowTracker(uri, "test")
        trial.start(f"search-t{number:04d}", "trial", {"editor": {"rank": rank, "method": "elder"}}, {}, parent)
        trial.log_metrics({"reliability.generate": 0.5 + number / 4}, 10)
        trial.finish("FINISHED")
    search.finish("FINISHED")
    return uri


def run(
    uri: Path,
    place: Path,
    run_id: str,
    config: Mapping[str, Any],
    scores: list[float],
    aliases: Mapping[int, str],
    status: str = "FINISHED",
) -> None:
    tracker = MlflowTracker(uri, "test")
    tracker.start(run_id, run_id, config, {"elder.method": "elder"})
    for stage, score in enumerate(scores):
        metrics = {"reliability.generate": score, "perplexity": 10.0 + stage}
        tracker.log_metrics(metrics, stage + 1)
        adapter = write_adapter(place / str(stage), f"{run_id} {stage}".encode())
        model = tracker.log_adapter(stage, adapter, metrics, stage + 1)
        if stage in aliases:
            tracker.register(model, "facts", aliases[stage], {})
    result = place / "result.json"
    result.write_text(json.dumps({"retention": [[scores[0]] * (i + 1) for i in range(len(scores))]}))
    tracker.log_artifact(result, "report")
    tracker.finish(status)


@pytest.fixture
def call(record: Path, elder: Elder, tmp_path: Path) -> Elder:
    """The command line with the record of this file; each test changes the aliases, so each names its own."""
    return lambda *args: elder(*args, "--mlflow", record)


def test_promote_and_roll_back(call: Elder, tmp_path: Path) -> None:
    first = call(
        "promote", "runs:/good/stage-0002", "--alias", "live", "--why", "better", "--who", "ann", "--json", "p"
    )
    assert first.code == 0, first.err
    told = json.loads((tmp_path / "p").read_text())
    version = told["version"]
    assert f"models:/facts@live: no version -> version {version}" in first.out
    assert "by ann at" in first.out
    assert ": better" in first.out
    assert "stage 2 of run good" in first.out
    assert (told["record"]["from"], told["record"]["forced"]) == (None, False)
    again = call("promote", f"models:/facts/{version}", "--alias", "live")
    assert f"is at version {version} already" in again.out
    assert call("promote", "models:/facts/1", "--alias", "live").code == 0
    pulled = call("pull", "models:/facts@live", "pulled")
    assert pulled.code == 0
    assert (tmp_path / "pulled" / "adapter.safetensors").read_bytes() == b"good 0"
    back = call("rollback", "facts", "--to", "previous", "--alias", "live", "--why", "worse")
    assert back.code == 0, back.err
    assert f"version 1 -> version {version}" in back.out
    assert call("rollback", "facts", "--to", "models:/facts/1", "--alias", "live").code == 0
    shown = call("show", "models:/facts", "--json", "s")
    history = [move for move in json.loads((tmp_path / "s").read_text())["history"] if move["alias"] == "live"]
    assert [(move["action"], move["from"], move["to"]) for move in history] == [
        ("promote", None, version),
        ("promote", version, 1),
        ("rollback", 1, version),
        ("rollback", version, 1),
    ]
    assert "rollback: @live" in shown.out
    assert "ann" in shown.out
    assert call("show", "facts").out == shown.out


def test_a_stage_whose_gates_do_not_hold_is_refused_unless_forced(call: Elder, tmp_path: Path) -> None:
    refused = call("promote", "runs:/good/stage-0001", "--alias", "strict")
    assert refused.code == 4
    assert "reliability.generate = 0.8000 is below 0.9" in refused.err
    assert "--force" in refused.err
    versions = len(json.loads(show(call, tmp_path, "facts"))["versions"])
    assert call("pull", "models:/facts@strict", "x").code == 2  # nothing was moved
    forced = call("promote", "runs:/good/stage-0001", "--alias", "strict", "--force", "--why", "a test")
    assert forced.code == 0, forced.err
    assert "(forced)" in forced.out
    assert "forced: gates.reliability" in forced.err
    model = json.loads(show(call, tmp_path, "facts"))
    assert len(model["versions"]) == versions + 1
    (kept,) = (move for move in model["history"] if move["alias"] == "strict")
    assert kept["forced"]
    assert "is below 0.9" in kept["failures"][0]
    assert "forced over: gates.reliability" in call("show", "facts").out


def test_a_failed_run_is_refused_and_one_without_gates_is_told(call: Elder) -> None:
    failed = call("promote", "failed", "--alias", "unguarded")
    assert failed.code == 4
    assert "its run failed" in failed.err
    free = call("promote", "free", "--alias", "unguarded")
    assert free.code == 0
    assert "has no gates, so nothing was guarded" in free.out


def test_rolling_back_to_what_never_held_the_alias_asks_the_gates(call: Elder, tmp_path: Path) -> None:
    assert call("promote", "runs:/good/stage-0001", "--alias", "other", "--force", "--json", "p").code == 0
    bad = json.loads((tmp_path / "p").read_text())["version"]
    refused = call("rollback", "facts", "--to", bad, "--alias", "fresh")
    assert refused.code == 4
    assert call("rollback", "facts", "--to", bad, "--alias", "fresh", "--force").code == 0
    assert call("promote", "models:/facts/1", "--alias", "fresh").code == 0
    assert call("rollback", "facts", "--to", bad, "--alias", "fresh").code == 0  # it has been there before


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("promote", "nothing"), "no run 'nothing'"),
        (("promote", "search"), "no such committed stage"),
        (("rollback", "facts", "--to", "99"), "there is no models:/facts/99"),
        (("rollback", "facts", "--to", "runs:/good"), "expected a version of 'facts'"),
        (("rollback", "facts", "--to", "previous", "--alias", "never"), "points nowhere"),
        (("show", "nothing"), "no run 'nothing'"),
    ],
)
def test_mistakes_exit_2(call: Elder, args: tuple[str, ...], message: str) -> None:
    found = call(*args)
    assert found.code == 2
    assert message in found.err


def test_show_draws_a_run(call: Elder, tmp_path: Path) -> None:
    found = call("show", "good", "--json", "s")
    assert found.code == 0, found.err
    for text in ("good", "FINISHED", "models:/facts/1", "@champion", "over the stages", "0.950 -> 0.990, least 0.800"):
        assert text in found.out, text
    assert "██"[0] in found.out  # the curve
    assert "  95   95   95" in found.out  # the retention matrix
    record = json.loads((tmp_path / "s").read_text())
    assert [len(row) for row in record["retention"]] == [1, 2, 3]
    assert [stage["stage"] for stage in record["stages"]] == [0, 1, 2]


def test_trials_are_shown_below_their_search(call: Elder, tmp_path: Path) -> None:
    found = call("show", "search", "--json", "s")
    assert "2 trials" in found.out
    assert "editor.rank" in found.out
    assert "editor.method" not in found.out  # the same in all
    assert "0.750" in found.out
    trials = json.loads((tmp_path / "s").read_text())["trials"]
    assert [trial["params"] for trial in trials] == [{"editor.rank": "4"}, {"editor.rank": "8"}]
    listed = call("runs", "--json", "r")
    rows = {row["run_id"]: row["trials"] for row in json.loads((tmp_path / "r").read_text())["runs"]}
    assert rows == {"good": 0, "failed": 0, "free": 0, "search": 2}
    assert "trials" in listed.out
    assert "search-t0001" not in listed.out
    assert "search-t0001" in call("runs", "--all").out


def show(call: Elder, tmp_path: Path, name: str) -> str:
    assert call("show", name, "--json", tmp_path / "shown.json").code == 0
    return (tmp_path / "shown.json").read_text()
