"""Rows laid end to end: every token once, no row sees another, places point at what they should."""

from __future__ import annotations

import pytest
import torch

from elder.forward.packing import lines_of, pack
from elder.mixture.samples import Row

ROWS = [Row((5, 6, 7), (8,), 0, ""), Row((9,), (10, 11, 12), 1, ""), Row((13, 14, 15, 16, 17), (18, 19), 2, "")]


def packed(width: int = 64):
    return pack(ROWS, 0, width, torch.device("cpu"), torch.float32)


def test_lines_hold_every_row_once_and_are_not_longer_than_needed() -> None:
    lengths = [40, 23, 37, 28, 33, 28, 31, 30]
    lines = lines_of(lengths, 512)
    assert sorted(i for line in lines for i in line) == list(range(8))
    assert len(lines) * max(sum(lengths[i] for i in line) for line in lines) < 0.9 * 8 * 40


def test_equal_rows_keep_a_line_each_and_narrow_models_pack_less() -> None:
    assert sorted(lines_of([7] * 5, 64)) == [[0], [1], [2], [3], [4]]
    lengths = [40, 10, 30, 20, 25, 15]
    assert len(lines_of(lengths, 8)) >= len(lines_of(lengths, 4096))


@pytest.mark.parametrize("width", [1, 64, 10**6])
def test_tokens_positions_and_places(width: int) -> None:
    p = packed(width)
    flat, row = p.input_ids.flatten(), p.row.flatten()
    assert sorted(i for i in flat.tolist() if i) == list(range(5, 20))
    for i, own in enumerate(ROWS):
        tokens = [*own.prompt, *own.answer]
        here = (row == i) & (flat > 0)
        assert flat[here].tolist() == tokens
        assert p.position_ids.flatten()[here].tolist() == list(range(len(tokens)))
        assert flat[p.keys[i]] == own.prompt[-1]
        told = flat[p.places[i] + 1].tolist()[-len(own.answer) :]
        assert told == list(own.answer)
        assert (row[p.places[i]] == i).all()
    assert p.kept.tolist() == sorted(set(p.places.flatten().tolist()))


def test_a_token_sees_its_own_row_backwards_and_nothing_else() -> None:
    p = packed(10**6)
    for line, mask in enumerate(p.mask[:, 0]):
        real = p.input_ids[line] > 0
        for t in real.nonzero()[:, 0].tolist():
            seen = (mask[t] == 0).nonzero()[:, 0]
            assert seen.tolist() == [s for s in range(t + 1) if real[s] and p.row[line, s] == p.row[line, t]]
    assert (p.mask == 0).any(-1).all()  # padding sees itself, so that no softmax is empty
