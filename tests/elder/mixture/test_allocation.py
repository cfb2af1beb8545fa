"""E13: which maps an answer is tied to."""

from __future__ import annotations

import pytest
import torch

from elder.errors import ConfigError
from elder.mixture.router import Allocator

LABELS = [f"answer {i}" for i in range(30)]


def test_e13_allocations_differ_by_label_and_have_k_maps_a_layer() -> None:
    rows = Allocator(3, 4, 2, 0).allocate(LABELS)
    assert rows.shape == (30, 3, 4)
    assert (rows.sum(-1) == 2).all()
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 30


def test_e13_the_same_label_keeps_its_allocation() -> None:
    allocator = Allocator(3, 4, 2, 0)
    first = allocator.allocate(["a", "b", "a"])
    assert torch.equal(first[0], first[2])
    assert torch.equal(allocator.allocate(["c", "b"])[1], first[1])


def test_e13_allocations_come_from_the_seed_alone() -> None:
    assert torch.equal(Allocator(3, 4, 2, 5).allocate(LABELS), Allocator(3, 4, 2, 5).allocate(LABELS))
    assert not torch.equal(Allocator(3, 4, 2, 5).allocate(LABELS), Allocator(3, 4, 2, 6).allocate(LABELS))


def test_e13_a_continued_stream_draws_what_an_uninterrupted_one_draws() -> None:
    whole = Allocator(3, 4, 2, 0).allocate(LABELS)
    before, after = Allocator(3, 4, 2, 0), Allocator(3, 4, 2, 0)
    first = before.allocate(LABELS[:11])
    after.load_json(before.to_json())
    assert torch.equal(torch.cat([first, after.allocate(LABELS[11:])]), whole)
    assert torch.equal(after.allocate(LABELS), whole)


def test_e13_every_allocation_is_used_before_labels_are_refused() -> None:
    allocator = Allocator(2, 3, 1, 0)
    assert allocator.capacity == 9
    rows = allocator.allocate(LABELS[:9])
    assert len({tuple(row.flatten().tolist()) for row in rows}) == 9
    allocator.allocate(LABELS[:9])  # known ones are still served
    with pytest.raises(ConfigError, match=r"9 different answers.*2 layers, experts=3, top_k=1"):
        allocator.allocate(["one too many"])
