"""Several nodes: a run over two of them, and what happens when they come, go, or take the driver with them.

The digests of an undisturbed run in one process are the truth: the fake editor's state betrays every edit that was
lost, doubled or reordered.
"""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from tests.cluster.driver import Order
from tests.cluster.networks import networked_nodes, possible
from tests.cluster.nodes import RayNodes, ray_nodes, trace
from tests.cluster.record import Run, Story, digests
from tests.cluster.tiny import write_model

pytestmark = [pytest.mark.nodes, pytest.mark.timeout(580)]


@pytest.fixture(scope="module")
def truth(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """State digests of a run that nothing disturbs."""
    from tests.cluster.driver import carry_out

    root = tmp_path_factory.mktemp("truth")
    carry_out(Order(store=str(root), events=""), lambda event: None)
    return digests(root)


@pytest.mark.skipif(possible() != "", reason=f"no network of its own for each node: {possible()}")
def test_a_killed_node_costs_its_stage_only(truth: list[str]) -> None:
    """Each node has its own address, host name and /tmp. One is cut off in a stage, another is added."""
    with networked_nodes("one", "two") as cluster:
        run = Run(cluster.directory, cluster, hang=True)
        story = Story("a node dies in a stage, another is added (own networks)")
        run.start()
        run.wait_for_hang()
        assert {run.last_node(0), run.last_node(1)} == {"one", "two"}
        story.strike()
        cluster.kill(run.last_node(1))
        cluster.start("three")
        assert run.end() == 0
        story.tell(run, truth)
        assert "three" in {*trace(run.trace, 0), *trace(run.trace, 1)}
        assert run.digests == truth
        assert run.attempts == [run.attempts[0], run.attempts[1], run.attempts[1]]
        assert run.attempts[0] != run.attempts[1]


def test_zero3_over_two_nodes_with_one_killed_equals_two_workers_on_one_node(cluster: RayNodes, tmp_path: Path) -> None:
    """A real model, sharded over two nodes; the node of rank 1 dies while it trains stage 1."""
    model = str(write_model(tmp_path / "model", "llama"))
    settings = {"sharding": "zero3", "address": "local"}
    alone = Run(tmp_path / "alone", cluster, model=model, edits=8, cluster_settings=settings)
    alone.start()
    run = Run(tmp_path / "nodes", cluster, model=model, edits=8, cluster_settings={"sharding": "zero3"})
    assert alone.end() == 0, alone.log_text()
    story = Story("ZeRO-3 over two nodes, one dies while it trains")
    run.start()
    run.wait_for(lambda event: event["kind"] == "batch" and event["stage"] == 1)
    assert {run.last_node(0), run.last_node(1)} == {"one", "two"}
    story.strike()
    cluster.kill(run.last_node(1))
    cluster.start("three")
    assert run.end() == 0
    story.tell(run, alone.digests)
    assert len(run.digests) == 2
    assert run.digests == alone.digests
    assert len(trace(run.trace, 1)) == 2


def test_an_older_driver_whose_workers_have_all_the_room_makes_it(
    cluster: RayNodes, tmp_path: Path, truth: list[str]
) -> None:
    """Its rank 1 sleeps in stage 1, for ten minutes if nobody ends it; the newer one waits for that room."""
    older = Run(tmp_path, cluster, hang=True)
    older.start()
    older.wait_for_hang()
    newer = Run(tmp_path, cluster)
    story = Story("a second driver on a cluster with room for one")
    story.strike()
    newer.start()
    assert older.end() == 5, older.log_text()
    assert "another driver has taken over run 'run-1'" in older.log_text()
    assert newer.end() == 0, newer.log_text()
    story.tell(newer, truth)
    assert newer.digests == truth
    notes = [event["text"] for event in newer.events() if event["kind"] == "note"]
    assert any(note.startswith("driver 2 of this run; if the one before it is alive, it stops") for note in notes)


def test_too_few_nodes_are_waited_for_and_then_told(cluster: RayNodes, tmp_path: Path, truth: list[str]) -> None:
    """A node is gone for good: exit 3 and what is missing. With a node that comes while the run waits, it goes on."""
    settings = {"wait_for_resources_s": 40}  # more than it takes the workers to start
    run = Run(tmp_path, cluster, hang=True, cluster_settings=settings)
    story = Story("a node is gone for good; the same command again, a node comes while it waits")
    run.start()
    run.wait_for_hang()
    story.strike()
    cluster.kill(run.last_node(1))
    assert run.end() == 3
    told = run.log_text()
    assert "2 CPU" in told
    assert run.digests == truth[:1]
    again = Run(tmp_path, cluster, cluster_settings={"wait_for_resources_s": 200})
    again.start()
    again.wait_for(lambda event: event["kind"] == "note" and "wait" in event["text"])
    cluster.start("three")
    assert again.end() == 0
    story.tell(again, truth)
    assert again.digests == truth


def test_a_node_more_changes_nothing(cluster: RayNodes, tmp_path: Path, truth: list[str]) -> None:
    run = Run(tmp_path, cluster, pause=3.0)
    run.start()
    run.wait_for(lambda event: event["kind"] == "committed" and event["stage"] == 0)
    story = Story("a node joins a healthy run")
    story.strike()
    cluster.start("three")
    assert run.end() == 0
    story.tell(run, truth, replayed=False)
    assert run.digests == truth
    assert len(set(run.attempts)) == 1
    assert len(trace(run.trace, 0)) == len(trace(run.trace, 1)) == 1


def test_a_killed_driver_is_continued_by_the_same_command(cluster: RayNodes, tmp_path: Path, truth: list[str]) -> None:
    """kill -9 of the driver on the head: its workers on both nodes go too, the cluster is free for the next."""
    run = Run(tmp_path, cluster, hang=True)
    run.start()
    run.wait_for_hang()
    story = Story("the driver dies (kill -9), the same command again")
    story.strike()
    run.stop(signal.SIGKILL)
    assert run.digests == truth[:1]
    again = Run(tmp_path, cluster)
    again.start()
    assert again.end() == 0
    story.tell(again, truth)
    assert again.digests == truth
    assert len(trace(run.trace, 0)) == 2


def test_a_head_that_dies_ends_the_run_and_a_new_cluster_continues(
    cluster: RayNodes, tmp_path: Path, truth: list[str]
) -> None:
    with ray_nodes("one", "two") as first:
        run = Run(tmp_path, first, hang=True)
        run.start()
        run.wait_for_hang()
        story = Story("the head node dies; a new cluster, the same command")
        story.strike()
        first.kill("head")
        assert run.end() == 3, run.log_text()
    assert run.digests == truth[:1]
    again = Run(tmp_path, cluster)
    again.start()
    assert again.end() == 0
    story.tell(again, truth)
    assert again.digests == truth
