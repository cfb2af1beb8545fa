"""A record follows everything that is done to the rows and columns of its cache."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import DynamicCache

from elder.mixture.cached import CacheRecord, attach_record, record_of
from elder.mixture.route import Routes

CPU = torch.device("cpu")


class Walked:
    """A record as plain lists, one of each row."""

    def __init__(self, rows: int) -> None:
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.real: list[list[bool]] = [[] for _ in range(rows)]
        self.start, self.end, self.inside, self.owner = [0] * rows, [-1] * rows, [False] * rows, [-1] * rows

    def pick(self, rows: Sequence[int]) -> None:
        for name, values in vars(self).items():
            setattr(self, name, [copy.copy(values[row]) for row in rows])

    def cut(self, columns: int) -> None:
        for row in range(len(self.tokens)):
            self.tokens[row], self.real[row] = self.tokens[row][:columns], self.real[row][:columns]
            self.inside[row] = self.inside[row] and self.start[row] < columns
            self.end[row] = self.end[row] if self.end[row] < columns else -1


def routes_of(inside: Sequence[bool], owner: Sequence[int]) -> Routes:
    rows = len(inside)
    gates = torch.tensor(owner).float()[:, None, None].expand(rows, 2, 3)
    long = torch.tensor(owner)
    return Routes(torch.tensor(inside), gates, long.clamp(min=0) % 2, long, long[:, None].expand(rows, 2).float())


def new_record(rows: int = 2, owner: str = "me") -> CacheRecord:
    return CacheRecord(owner, Routes.none(rows, 2, 3, CPU), CPU)


def check(record: CacheRecord, walked: Walked) -> None:
    assert len(record) == len(walked.tokens)
    assert record.columns == len(walked.tokens[0])
    assert record.ends.tolist() == walked.end
    assert record.settled == all(end >= 0 for end in walked.end)
    assert record.routes.inside.tolist() == walked.inside
    for row, inside in enumerate(walked.inside):
        if inside:
            assert int(record.starts[row]) == walked.start[row]
            assert int(record.routes.owner[row]) == walked.owner[row]
            assert (record.routes.gates[row] == walked.owner[row]).all()
    starts = [start for start, inside in zip(walked.start, walked.inside, strict=True) if inside]
    assert record.edited_from() == min([record.columns, *starts])
    for begin in range(record.columns):
        piece = record.content(begin)
        assert piece.tokens.tolist() == [row[begin:] for row in walked.tokens]
        assert piece.mask().tolist() == [row[begin:] for row in walked.real]
    plan = record.step()
    places = [] if plan is None else list(range(len(record))) if plan.tokens is None else plan.tokens.tolist()
    assert places == [row for row, inside in enumerate(walked.inside) if inside]


@given(st.data())
def test_any_sequence_of_what_can_happen_to_a_cache(data: st.DataObject) -> None:
    rows = data.draw(st.integers(1, 3), "rows")
    record, walked = new_record(rows), Walked(rows)
    count = 0
    for _ in range(data.draw(st.integers(1, 7), "steps")):
        kinds = ["extend", "route", "select", "repeat", "crop", "keep"] if record.columns else ["extend"]
        kind = data.draw(st.sampled_from(kinds), "what")
        rows = len(record)
        if kind == "extend":
            length, padded = data.draw(st.integers(1, 3)), data.draw(st.booleans())
            tokens = torch.arange(count, count + rows * length).view(rows, length)
            count += rows * length
            real = torch.rand(rows, length) < 0.5 if padded else None
            record.extend(tokens, real, None, None)
            for row in range(rows):
                walked.tokens[row] += tokens[row].tolist()
                walked.real[row] += [True] * length if real is None else real[row].tolist()
        elif kind == "route":
            columns = st.lists(st.integers(0, record.columns - 1), min_size=rows, max_size=rows)
            walked.start, walked.end = data.draw(columns), data.draw(columns)
            walked.inside = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows))
            walked.owner = data.draw(st.lists(st.integers(0, 9), min_size=rows, max_size=rows))
            routes = routes_of(walked.inside, walked.owner)
            record.route(routes, torch.tensor(walked.start), torch.tensor(walked.end))
        elif kind == "select":
            picked = data.draw(st.lists(st.integers(0, rows - 1), min_size=1, max_size=4))
            record.select(torch.tensor(picked))
            walked.pick(picked)
        elif kind == "keep":
            kept = data.draw(st.lists(st.booleans(), min_size=rows, max_size=rows).filter(any))
            record.select(torch.tensor(kept))
            walked.pick([row for row in range(rows) if kept[row]])
        elif kind == "repeat" and rows < 5:
            record.repeat(2)
            walked.pick([row for row in range(rows) for _ in range(2)])
        elif kind == "crop":
            columns = data.draw(st.integers(0, record.columns + 1))
            record.crop(columns)
            if columns < len(walked.tokens[0]):
                walked.cut(columns)
        check(record, walked)


def test_a_step_is_planned_once_and_anew_after_a_change() -> None:
    record = new_record()
    record.extend(torch.zeros(2, 3, dtype=torch.long), None, None, None)
    record.route(routes_of([True, False], [1, 0]), torch.tensor([2, 0]), torch.tensor([2, 2]))
    first = record.step()
    assert first is not None
    record.extend(torch.zeros(2, 1, dtype=torch.long), None, None, None)
    assert record.step() is first
    record.select(torch.tensor([1, 0]))
    assert record.step().tokens.tolist() == [1]
    assert new_record().step() is None


def test_positions_and_states_are_known_of_all_columns_or_of_none() -> None:
    record, ids, low = new_record(), torch.arange(4).view(2, 2), torch.randn(2, 2, 5)
    record.extend(ids, None, ids + 10, low)
    record.extend(ids, None, ids + 12, low + 1)
    piece = record.content(1)
    assert piece.positions.tolist() == [[11, 12, 13], [13, 14, 15]]
    assert torch.equal(piece.low, torch.cat([low, low + 1], dim=1)[:, 1:])
    record.extend(ids, None, None, None)
    assert record.content(0).positions is None
    assert record.content(0).low is None
    assert record.content(0).tokens.shape == (2, 6)


def test_what_is_kept_as_embeddings_is_what_the_tokens_were() -> None:
    record, table = new_record(), torch.nn.Embedding(9, 4)
    record.extend(torch.tensor([[1, 2], [3, 4]]), None, None, None)
    assert not record.embedded
    record.embed(table)
    assert record.embedded
    record.extend(table(torch.tensor([[5], [6]])).detach(), None, None, None)
    assert torch.equal(record.content(0).tokens, table(torch.tensor([[1, 2, 5], [3, 4, 6]])))
    assert not record.content(0).tokens.requires_grad


# ---- on a cache ------------------------------------------------------------------------------------------------------


def filled(rows: int = 3, columns: int = 4) -> tuple[DynamicCache, CacheRecord]:
    """A cache whose keys are the tokens of its record, two layers."""
    cache, record = DynamicCache(), new_record(rows)
    tokens = torch.arange(rows * columns).view(rows, columns)
    for layer in range(2):
        states = tokens[:, None, :, None].float().expand(rows, 1, columns, 2).clone()
        cache.update(states, states, layer)
    record.extend(tokens, None, None, None)
    record.route(routes_of([True, False, True], [7, 8, 9]), torch.tensor([1, 0, 2]), torch.tensor([1, 2, 3]))
    attach_record(cache, record)
    return cache, record


def held(cache: Any) -> list[list[float]]:
    return cache.layers[1].keys[:, 0, :, 0].tolist()


OPERATIONS: dict[str, Callable[[Any], None]] = {
    "reordered": lambda cache: cache.reorder_cache(torch.tensor([2, 0, 0])),
    "selected": lambda cache: cache.batch_select_indices(torch.tensor([1, 2])),
    "repeated": lambda cache: cache.batch_repeat_interleave(2),
    "cut": lambda cache: cache.crop(-2),
}


@pytest.mark.parametrize("what", OPERATIONS)
def test_the_record_goes_where_the_keys_and_values_go(what: str) -> None:
    cache, record = filled()
    before = held(cache)
    OPERATIONS[what](cache)
    assert record_of(cache, "me") is record
    assert record.content(0).tokens.tolist() == held(cache) != before
    assert record.columns == cache.get_seq_length()
    owners = {0.0: 7, 4.0: 8, 8.0: 9}
    assert record.routes.owner.tolist() == [owners[row[0]] for row in held(cache)]


def test_an_emptied_cache_has_an_empty_record() -> None:
    cache, record = filled()
    cache.reset()
    assert record.columns == 0
    assert record.ends.tolist() == [-1, -1, -1]
    assert not record.routes.inside.any()


def test_a_cache_with_a_record_is_of_its_own_kind_still() -> None:
    cache, record = filled()
    assert isinstance(cache, DynamicCache)
    assert type(cache).__name__ == "DynamicCache"
    attach_record(cache, record)  # again, with every pass
    assert type(cache).__mro__.count(DynamicCache) == 1
    assert type(cache) is type(filled()[0])


def test_edits_read_their_own_records_only() -> None:
    cache, record = filled()
    assert record_of(cache, "me") is record
    assert record_of(cache, "somebody else") is None
    assert record_of(DynamicCache(), "me") is None
    assert record_of(None, "me") is None


@pytest.mark.parametrize("how", ["copied", "pickled"])
def test_a_copy_of_a_cache_has_a_record_of_its_own(how: str) -> None:
    cache, record = filled()
    twin = copy.deepcopy(cache) if how == "copied" else pickle.loads(pickle.dumps(cache))
    found = record_of(twin, "me")
    assert found is not None
    assert found is not record
    twin.batch_select_indices(torch.tensor([2]))
    twin.crop(-1)
    assert found.content(0).tokens.tolist() == held(twin) == [[8.0, 9.0, 10.0]]
    assert found.routes.owner.tolist() == [9]
    assert record.content(0).tokens.tolist() == held(cache)
    assert len(record) == 3
