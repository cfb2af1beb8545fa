"""M5, M6, M7, M11: the clusters of MELO, and where the reference code's are wrong."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from elder.editors.codebook.clusters import EDGE, Clusters

CPU = torch.device("cpu")
A, B = (3, 4), (2, 5)  # the ids add up to the same, as the reference compares answers


def at(*places: float) -> Tensor:
    """Keys along a line, well away from the origin."""
    keys = torch.zeros(len(places), 3)
    keys[:, 0], keys[:, 1] = torch.tensor(places), 5.0
    return keys


def made(*steps: tuple[float, Sequence[int]], radius: float = 1.0) -> Clusters:
    """Clusters after keys with answers, one in a batch; each has the block of its place."""
    clusters = Clusters(3, radius, 1e-6, CPU)
    for number, (place, label) in enumerate(steps):
        clusters.add(at(place), [tuple(label)], number, [number])
    return clusters


def balls(clusters: Clusters) -> list[tuple[float, float]]:
    """Place and radius of each cluster, by place."""
    state = clusters.state()
    return sorted(zip(state["centers"][:, 0].tolist(), state["radius"].tolist(), strict=True))


def blocks(clusters: Clusters, *places: float) -> list[int | None]:
    found = clusters.find(at(*places))
    return [block if inside else None for inside, block in zip(found.inside.tolist(), found.block.tolist())]


@pytest.mark.parametrize(
    ("distance", "label", "clusters", "conflicts"),
    [(2.1, A, 2, 0), (2.1, B, 2, 0), (1.9, A, 1, 0), (1.9, B, 2, 1), (0.5, A, 1, 0), (0.5, B, 2, 1)],
    ids=["add", "add another", "expand", "conflict", "expand within", "conflict within"],
)
def test_a_key_founds_extends_or_cuts(distance: float, label: tuple[int, int], clusters: int, conflicts: int) -> None:
    found = made((0.0, A), (distance, label))
    assert (len(found), found.conflicts) == (clusters, conflicts)
    assert blocks(found, 0.0, distance) == [0, 1]


def test_an_extended_cluster_is_the_ball_around_the_mean() -> None:
    assert balls(made((0.0, A), (1.8, A))) == [(pytest.approx(0.9), 1.0)]
    places = (0.0, 2.0, 3.0, 4.2)
    assert balls(made(*((place, A) for place in places))) == [(pytest.approx(2.3), pytest.approx(2.3))]


def test_a_conflict_parts_the_distance() -> None:
    (left, smaller), (right, larger) = balls(made((0.0, A), (1.4, B)))
    assert smaller + larger == pytest.approx(right - left)
    assert (smaller, larger) == (pytest.approx(0.7 - EDGE), pytest.approx(0.7 + EDGE))
    assert blocks(made((0.0, A), (1.4, B)), 0.69, 0.71) == [0, 1]


def test_what_a_conflict_leaves_outside_is_forgotten() -> None:
    clusters = made((0.0, A), (1.8, A), (1.5, B))  # the centre 0.9 keeps less than 0.3: no point is left
    assert (len(clusters), clusters.forgotten) == (1, 2)
    assert blocks(clusters, 0.0, 1.5) == [None, 2]
    clusters = made((0.5, A), (0.6, A), (1.6, A), (1.7, B))  # the centre 0.9 keeps less than 0.4
    assert (len(clusters), clusters.forgotten) == (2, 2)
    assert blocks(clusters, 0.6, 0.5, 1.6) == [1, None, 3]


def test_answers_are_compared_token_by_token() -> None:
    assert sum(A) == sum(B)
    assert made((0.0, A), (0.5, B)).conflicts == 1


def test_a_cluster_that_was_cut_does_not_swell_again() -> None:
    """In the reference a later key of the same answer gives it the whole first radius back."""
    clusters = made((0.0, A), (1.4, B), (-0.1, A))
    (left, smaller), (right, larger) = balls(clusters)
    assert (left, smaller) == (pytest.approx(-0.05), pytest.approx(1.45 - 0.7 - EDGE))
    assert smaller + larger <= right - left + 1e-6
    clusters = made((0.0, A), (1.4, B), (0.75, A))  # it would need room that the other has
    assert len(clusters) == 3
    assert blocks(clusters, 0.0, 1.4, 0.75) == [0, 1, 2]


def test_a_batch_is_looked_at_key_by_key() -> None:
    """In the reference the keys of a batch do not see each other, so that two answers share a place."""
    clusters = Clusters(3, 1.0, 1e-6, CPU)
    nearest = clusters.add(at(0.0, 0.6), [A, B], 0, [0, 1])
    assert clusters.conflicts == 1
    assert nearest.tolist() == [torch.inf, pytest.approx(0.6)]


def test_a_key_that_comes_again_takes_the_place_of_the_first() -> None:
    again = made((0.0, A), (0.0, B))
    assert (len(again), again.replaced, again.forgotten, again.conflicts) == (1, 1, 0, 0)
    assert balls(again) == [(0.0, 1.0)]
    assert blocks(again, 0.0) == [1]
    same = made((0.0, A), (0.0, A))
    assert (len(same), same.replaced) == (1, 0)
    assert blocks(same, 0.0) == [1]  # of equal keys the newest counts


def test_a_stored_key_is_found_although_another_centre_is_nearer() -> None:
    clusters = made(*((place, A) for place in (0.0, 2.0, 3.0, 4.2, 5.5)), (-1.01, B))
    centers = [place for place, _ in balls(clusters)]
    assert len(centers) == 2
    assert abs(centers[0]) < abs(centers[1])
    assert blocks(clusters, 0.0, -1.01, -2.02) == [0, 5, None]


@pytest.mark.parametrize("seed", range(3))
def test_every_key_that_is_not_forgotten_is_found(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    keys = torch.rand(90, 3, generator=generator) * 6
    clusters, owner = Clusters(3, 0.9, 1e-6, CPU), 0
    for block, batch in enumerate(keys.split(5)):
        labels = [(int(torch.randint(4, (1,), generator=generator)),) for _ in batch]
        clusters.add(batch, labels, block, list(range(owner, owner + len(batch))))
        owner += len(batch)
        state = clusters.state()
        found = clusters.find(state["points"])
        assert bool(found.inside.all())
        assert torch.equal(found.block, state["block"])
        assert torch.equal(found.owner, state["owner"])
        assert len(state["points"]) + clusters.forgotten == owner
    assert clusters.conflicts
    assert clusters.forgotten
    assert len(clusters) < 80
    assert not bool(clusters.find(keys + 100).inside.any())


def test_a_look_up_is_that_of_the_definition() -> None:
    generator = torch.Generator().manual_seed(0)
    clusters = Clusters(4, 1.0, 0.0, CPU)
    labels = [(int(n),) for n in torch.randint(3, (60,), generator=generator)]
    clusters.add(torch.randn(60, 4, generator=generator) * 2, labels, 0, list(range(60)))
    asked = torch.randn(200, 4, generator=generator) * 2
    state, found = clusters.state(), clusters.find(asked)
    for number, key in enumerate(asked):
        holds = (state["centers"] - key).norm(dim=1) <= state["radius"]
        there = holds[state["cluster"]]
        assert bool(found.inside[number]) == bool(there.any())
        if there.any():
            best = int((state["points"] - key).norm(dim=1).masked_fill(~there, torch.inf).argmin())
            assert int(found.owner[number]) == int(state["owner"][best])
            home = state["cluster"][best]
            depth = 1 - float((state["centers"][home] - key).norm() / state["radius"][home])
            assert float(found.score[number]) == pytest.approx(max(0.0, depth), abs=1e-5)
    assert 0 < int(found.inside.sum()) < 200


def test_nothing_is_in_an_empty_store() -> None:
    found = Clusters(3, 1.0, 1e-6, CPU).find(at(0.0, 1.0))
    assert found.inside.tolist() == [False, False]


def test_a_snapshot_stays_as_it_is() -> None:
    clusters = made((0.0, A), (1.0, A))
    before = clusters.snapshot()
    said, kept = blocks(before, 0.0, 1.0, 0.9), before.state()
    for number in range(40):  # buffers grow, clusters move and are cut
        clusters.add(at(number / 10), [A if number % 3 else B], number, [number])
    assert blocks(before, 0.0, 1.0, 0.9) == said
    assert all(torch.equal(kept[name], value) for name, value in before.state().items())


def test_a_state_continues_as_the_store_would() -> None:
    generator = torch.Generator().manual_seed(0)
    keys = torch.rand(80, 3, generator=generator) * 6
    labels = [(int(n),) for n in torch.randint(4, (80,), generator=generator)]
    whole = Clusters(3, 0.9, 1e-6, CPU)
    whole.add(keys[:60], labels[:60], 0, list(range(60)))
    assert whole.forgotten
    other = Clusters(3, 0.9, 1e-6, CPU)
    other.load(whole.state())
    for clusters in (whole, other):
        clusters.add(keys[60:], labels[60:], 1, list(range(60, 80)))
    first, second = whole.state(), other.state()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_a_rank_takes_over_what_another_found() -> None:
    before = made((0.0, A), (1.4, B))
    first, second = before.snapshot(), before.snapshot()
    first.add(at(0.1, 0.8), [A, B], 2, [2, 3])
    second.add(at(0.1, 0.8), [B, A], 2, [2, 3])  # as if it had come to other conclusions
    second.settle(before, first.since(len(before.radius)))
    assert balls(second) == balls(first)
    assert (second.conflicts, second.forgotten) == (first.conflicts, first.forgotten)
    assert torch.equal(second.cluster, first.cluster)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("cluster", torch.tensor([0, 7]), "'clusters.cluster' names what is not there"),
        ("block", torch.tensor([0, 2]), "'clusters.block' names what is not there"),
        ("owner", torch.tensor([0]), "'clusters.owner' has 1 entries, expected 2"),
        ("radius", torch.tensor([1.0, -1.0]), "'clusters.radius' is negative"),
        ("label", torch.tensor([0, 2]), "'clusters.label' names what is not there"),
    ],
)
def test_contradictions_in_a_state_are_named(name: str, value: Tensor, told: str) -> None:
    state = made((0.0, A), (1.4, B)).state()
    assert Clusters.problems(state, 2, 2) == []
    assert told in Clusters.problems({**state, name: value}, 2, 2)
