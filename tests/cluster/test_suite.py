"""Comparisons and studies on real Ray: members side by side on two nodes, failures, dead workers, dead drivers.

What the same suite does in one process, undisturbed, is the truth: the fake editor's state betrays every edit that was
lost, doubled or reordered.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.nodes import RayNodes, end_of, stop, wait_until
from tests.cluster.suite_run import Order, carry_out, commits_of, lines, states
from tests.infra.servers import mlflow_server


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, dict[str, list[str]]]:
    """State digests of all runs of both kinds, done in this process."""
    found = {}
    for kind in ("compare", "study"):
        place = tmp_path_factory.mktemp(kind)
        carry_out(Order(kind, str(place)))
        found[kind] = states(commits_of(place))
    return found


def drive(cluster: RayNodes, order: Order, log: Path) -> subprocess.Popen[bytes]:
    """The suite in a process of its own on the head."""
    return cluster.drive("tests.cluster.suite_run", order.text(), log=log)


def read_result(place: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((place / "out" / "result.json").read_text())
    return found


@pytest.mark.nodes
def test_methods_run_side_by_side_and_a_failure_is_its_own(tmp_path: Path, ray_cluster: None) -> None:
    """As many of three at a time as the cluster has cores; one fails in its second stage."""
    wrong = {"kind": "refuse", "edit": 5, "marker": "", "once": False}
    events: list[Mapping[str, Any]] = []
    came = carry_out(Order("compare", str(tmp_path / "a"), "local", {"w-plus": wrong}), events)
    assert came.result["status"] == {"elder": "finished", "plus": "failed", "third": "finished"}
    assert "will not" in came.result["failed"]["plus"]
    carry_out(Order("compare", str(tmp_path / "b")))
    ours, expected = states(commits_of(tmp_path / "a")), states(commits_of(tmp_path / "b"))
    assert ours == {**expected, "w-plus": expected["w-plus"][:1]}
    told = [event["text"] for event in events if event["kind"] == "note"]
    assert any(text.endswith("runs at a time") for text in told)
    ended = [(event["name"], event["status"]) for event in events if event["kind"] == "member"]
    assert sorted(one for one in ended if one[1] != "running") == [
        ("elder", "finished"), ("plus", "failed"), ("third", "finished"),
    ]  # fmt: skip
    assert {event["member"] for event in events if event["kind"] == "committed"} == {"elder", "plus", "third"}


@pytest.mark.nodes
@pytest.mark.timeout(580)
def test_both_nodes_work_and_the_runs_are_as_in_one_process(
    cluster: RayNodes, truth: Mapping[str, Any], tmp_path: Path
) -> None:
    process = drive(cluster, Order("compare", str(tmp_path / "a"), cluster.address, meet=2), log := tmp_path / "log")
    assert end_of(process, log) == 0, log.read_text()[-3000:]
    assert states(commits_of(tmp_path / "a")) == truth["compare"]
    assert {node for _, node in lines(tmp_path / "a", "base")} == {"one", "two"}
    assert len(lines(tmp_path / "a", "base")) == 2, "the third method finds the base of the first to end"
    assert read_result(tmp_path / "a")["status"] == dict.fromkeys(("elder", "plus", "third"), "finished")


@pytest.mark.nodes
@pytest.mark.timeout(580)
def test_a_killed_driver_resumes_and_repeats_nothing(
    cluster: RayNodes, truth: Mapping[str, Any], tmp_path: Path
) -> None:
    """kill -9 of the driver when one method has finished and another one is in the middle of its second stage."""
    place, marker = tmp_path / "a", tmp_path / "hangs"
    hang = {"kind": "sleep", "edit": 6, "marker": str(marker)}
    first = place / "store/runs/w-elder/result.json"
    process = drive(cluster, Order("compare", str(place), cluster.address, {"w-third": hang}), log := tmp_path / "log")
    wait_until(lambda: (marker.exists() and first.exists()) or process.poll() is not None, "one to end, one to hang")
    assert process.poll() is None, log.read_text()[-3000:]
    stop(process, signal.SIGKILL)
    before = commits_of(place)
    finished = [run for run in before if (place / "store/runs" / run / "result.json").exists()]
    assert "w-elder" in finished
    assert len(before["w-third"]) == 1
    (place / "lines").rename(tmp_path / "earlier")
    again = drive(cluster, Order("compare", str(place), cluster.address), log)
    assert end_of(again, log) == 0, log.read_text()[-3000:]
    after = commits_of(place)
    assert states(after) == truth["compare"]
    for run, stages in before.items():
        assert after[run][: len(stages)] == stages, "what was committed is kept, attempt for attempt"
    taken_up = {run for run, _ in lines(place, "editor")}
    assert "w-third" in taken_up
    assert not taken_up & set(finished), "a method that had finished is not touched again"
    assert set(read_result(place)["status"].values()) == {"finished"}


@pytest.mark.nodes
@pytest.mark.timeout(580)
def test_a_study_survives_the_death_of_a_worker(cluster: RayNodes, truth: Mapping[str, Any], tmp_path: Path) -> None:
    """Two batch sizes under two strategies side by side; one worker is killed in the middle of a stage."""
    victim = "w-p-elder-sb-b0002"
    kill = {"kind": "kill", "edit": 6, "marker": str(tmp_path / "struck")}
    order = Order("study", str(tmp_path / "a"), cluster.address, {victim: kill})
    process = drive(cluster, order, log := tmp_path / "log")
    assert end_of(process, log) == 0, log.read_text()[-3000:]
    assert (tmp_path / "struck").exists()
    found = commits_of(tmp_path / "a")
    assert len(found) == 4
    assert states(found) == truth["study"]
    assert [run for run, _ in lines(tmp_path / "a", "editor")].count(victim) == 2
    runs = read_result(tmp_path / "a")["runs"]
    assert {run["status"] for run in runs.values()} == {"finished"}
    assert (tmp_path / "a/out/report.md").exists()


@pytest.mark.nodes
@pytest.mark.timeout(580)
def test_the_command_line_compares_real_methods_on_two_nodes(cluster: RayNodes, database: Path, tmp_path: Path) -> None:
    """Three methods on the smallest embedded world, one of which lacks its text; a real MLflow server keeps record."""
    methods = {
        "ultraedit": "{layers: [1]}", "memit": "{layers: [1], steps: 3, contexts: 0, text_tokens: 2000}",
        "lost": "{method: rome, text: gone.txt}",
    }  # fmt: skip
    with mlflow_server(database, str(tmp_path / "artifacts"), {}) as address:
        given = [
            "model.source=world:tiny", "data.source=world:tiny", "data.edits=4", "stream.stage_size=2",
            "stream.batch_size=2",
            "evaluation.protocols=[forced]", "evaluation.probes=0", "cluster.workers=1", "cluster.sharding=none",
            "cluster.threads_per_worker=1", f"tracking.store={tmp_path / 'store'}", f"tracking.mlflow={address}",
            "tracking.register=null", "tracking.experiment=suite", "run_id=c",
        ]  # fmt: skip
        given += [f"compare.methods.{name}={options}" for name, options in methods.items()]
        words = ["compare", "demo", *given, "--address", cluster.address, "--out", str(tmp_path / "out")]
        process = cluster.drive(
            "elder.jobs.main", *words, "--json", str(tmp_path / "r.json"), log=(log := tmp_path / "log")
        )
        assert end_of(process, log, 500) == 1, log.read_text()[-3000:]
        result = json.loads((tmp_path / "r.json").read_text())
        assert result["status"] == {"ultraedit": "finished", "memit": "finished", "lost": "failed"}, result["failed"]
        assert "gone.txt" in result["failed"]["lost"]
        assert len(result["methods"]["memit"]["stages"]) == 2
        assert "1 of 3 did not finish" in log.read_text()

        from mlflow import MlflowClient

        client = MlflowClient(address)
        found = client.search_runs([client.get_experiment_by_name("suite").experiment_id])
    runs = {run.data.tags["elder.run_id"]: run for run in found}
    assert set(runs) == {"c", "c-ultraedit", "c-memit"}
    parent = runs["c"].info.run_id
    assert runs["c"].data.tags["elder.kind"] == "compare"
    assert {runs[name].data.tags["mlflow.parentRunId"] for name in ("c-ultraedit", "c-memit")} == {parent}
    assert {name: run.info.status for name, run in runs.items()} == {
        "c": "FAILED", "c-ultraedit": "FINISHED", "c-memit": "FINISHED",
    }  # fmt: skip
    assert (
        runs["c"].data.metrics["memit/reliability.forced"] == result["methods"]["memit"]["final"]["reliability.forced"]
    )
