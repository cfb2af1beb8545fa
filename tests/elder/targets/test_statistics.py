"""Invariant 22 of the weight editors: second moments of a model's keys, however the text is cut and dealt."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from elder.base import Base
from elder.errors import DataError
from elder.models.anatomy import anatomy
from elder.models.load import wrap_base
from elder.targets.statistics import collect_moments, cut_windows, moment_id
from tests.elder.tiny import on_ranks

TEXTS = (
    "A first text of some length.",
    "",
    "Short.",
    "The third one goes on for quite a while, and then it ends.",
    "x y",
)
LAYERS = (0, 2)


@torch.no_grad()
def plain(base: Base, layer: int, bos: bool) -> tuple[Tensor, int]:
    """One text after the other through the whole model, in float64 sums."""
    seen: list[Tensor] = []
    hook = anatomy(base.model).mlp_out[layer].register_forward_pre_hook(lambda _, args: seen.append(args[0][0]))
    total, count = torch.tensor(0.0, dtype=torch.float64), 0
    for text in filter(None, TEXTS):
        ids = base.tokenizer(text, return_tensors="pt")["input_ids"]
        base.model(input_ids=ids)
        keys = seen.pop().double()
        if not bos:
            keys = keys[ids[0] != base.tokenizer.bos_token_id]
        total, count = total + keys.T @ keys, count + len(keys)
    hook.remove()
    return total / count, count


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("batch_tokens", [1, 70, 10_000])
def test_one_pass_for_all_layers_is_a_pass_for_each(base: Base, bos: bool, batch_tokens: int) -> None:
    windows = cut_windows(base.tokenizer, TEXTS, 100)
    found = collect_moments(base, windows, LAYERS, bos, batch_tokens)
    for layer in LAYERS:
        wanted, count = plain(base, layer, bos)
        assert found[layer].count == count
        torch.testing.assert_close(found[layer].mean(), wanted, rtol=1e-4, atol=1e-6)


def test_ranks_share_the_text(base: Base) -> None:
    windows = cut_windows(base.tokenizer, TEXTS, 100)
    wanted = collect_moments(base, windows, LAYERS)

    def program(runtime: Any) -> Any:
        return collect_moments(wrap_base(base.model, base.tokenizer, base.source, runtime), windows, LAYERS)

    for world_size in (2, 5):  # of five ranks one has no text at all
        for found in on_ranks(program, world_size):
            for layer in LAYERS:
                assert found[layer].count == wanted[layer].count
                torch.testing.assert_close(found[layer].mean(), wanted[layer].mean(), rtol=1e-4, atol=1e-6)


def test_the_model_is_as_before(base: Base) -> None:
    hooks = [len(m._forward_pre_hooks) for m in base.model.modules()]
    collect_moments(base, cut_windows(base.tokenizer, TEXTS, 100), LAYERS)
    assert [len(m._forward_pre_hooks) for m in base.model.modules()] == hooks


def test_text_is_cut_and_counted(base: Base) -> None:
    every = cut_windows(base.tokenizer, TEXTS, 10)
    assert max(map(len, every.rows)) == 10
    assert [len(row) for row in every.rows] == sorted((len(row) for row in every.rows), reverse=True)
    some = cut_windows(base.tokenizer, TEXTS, 10, tokens=14)
    assert some.tokens == 14
    with pytest.raises(DataError, match="1000000 are wanted"):
        cut_windows(base.tokenizer, TEXTS, 10, tokens=1_000_000)
    with pytest.raises(DataError, match="empty"):
        cut_windows(base.tokenizer, ["", " "], 10)


def test_the_id_tells_statistics_apart(base: Base) -> None:
    windows, fewer = cut_windows(base.tokenizer, TEXTS, 10), cut_windows(base.tokenizer, TEXTS[:3], 10)
    ids = [
        moment_id("a", windows, 0, True),
        moment_id("b", windows, 0, True),
        moment_id("a", fewer, 0, True),
        moment_id("a", windows, 1, True),
        moment_id("a", windows, 0, False),
    ]
    assert len(set(ids)) == 5
    assert ids[0] == moment_id("a", cut_windows(base.tokenizer, TEXTS, 10), 0, True)
