"""What is particular to ELDER: guided routing by answers, codes stored as they were."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from elder.base import Base
from elder.edit import Edit
from elder.editors.make import make_editor
from elder.mixture.router import guided_loss
from elder.mixture.samples import edit_rows
from tests.elder.tiny import EDITS, OPTIONS, padded


def codes_of(editor: Any, prompts: list[str]) -> torch.Tensor:
    """(B, L, N) what the routers pick for prompts now: the maps that have a weight."""
    inputs = padded(editor.base, prompts)
    return editor.routes(inputs["input_ids"], inputs["attention_mask"]).gates > 0


def elder(base: Base, **options: Any) -> Any:
    return make_editor("elder", base, **{**OPTIONS["elder"], **options})


def test_e05_the_guide_moves_routers_and_nothing_else(base: Base) -> None:
    editor = elder(base)
    rows = edit_rows(base.tokenizer, EDITS[:2], "eos")
    (part,) = editor.trainer.prepare(rows)
    allocation = editor.allocator.allocate([row.label for row in rows])
    guided_loss(editor.router(part.query), allocation).sum().backward()
    assert all(p.grad is None for p in editor.mixtures.parameters())
    assert all(p.grad is None for p in base.model.parameters())
    assert all(p.grad.abs().sum() > 0 for p in editor.router.parameters())


def test_the_first_loss_is_answer_loss_plus_weighted_guide(base: Base) -> None:
    """Fresh maps change nothing, so the difference of two weights is the guide's mean over rows."""
    curves = {w: elder(base, guide_weight=w).edit(EDITS[:2]).losses[0][0] for w in (0.0, 1.0)}
    editor = elder(base)
    rows = edit_rows(base.tokenizer, EDITS[:2], "eos")
    (part,) = editor.trainer.prepare(rows)
    log_p = editor.router(part.query)
    guide = guided_loss(log_p, editor.allocator.allocate([row.label for row in rows])).mean()
    assert curves[1.0] - curves[0.0] == pytest.approx(float(guide), abs=1e-3)
    assert float(guide) > len(editor.layers) * 2 * math.log(2)
    losses = editor.trainer.answer_losses(part, torch.zeros(3, len(rows), 6))
    assert curves[0.0] == pytest.approx(float(losses.sum()) / sum(len(r.answer) for r in rows), abs=1e-4)


def test_e13_wordings_and_equal_answers_share_an_allocation(base: Base) -> None:
    editor = elder(base, batch_size=3)
    twin = Edit("Somewhere far is", EDITS[0].target)
    editor.edit([EDITS[0], EDITS[1], twin])
    assert [label for label, _ in editor.allocator.to_json()] == [EDITS[0].target, EDITS[1].target]


def test_e14_after_overfitting_the_codes_are_the_allocations(base: Base) -> None:
    editor = elder(base, batch_size=4, steps=120, lr=1e-2, guide_weight=5.0)
    editor.edit(EDITS[:4])
    prompts = [prompt for edit in EDITS[:4] for prompt in edit.training_prompts]
    labels = [edit.target for edit in EDITS[:4] for _ in edit.training_prompts]
    wanted = editor.allocator.allocate(labels)
    assert torch.equal(codes_of(editor, prompts), wanted)
    stored = editor.codes.state().flatten(1)
    assert {tuple(c) for c in stored.tolist()} == {tuple(c) for c in wanted.flatten(1).tolist()}
    assert len(editor.codes) == 4


def test_the_codes_of_the_last_step_are_stored_one_for_each_row(base: Base) -> None:
    editor = elder(base, lr=1e-9)
    editor.edit(EDITS[:3])
    prompts = [prompt for edit in EDITS[:3] for prompt in edit.training_prompts]
    now = {tuple(c) for c in codes_of(editor, prompts).flatten(1).tolist()}
    assert {tuple(c) for c in editor.codes.state().flatten(1).tolist()} == now
    assert editor.codes.recorded == len(prompts)


def test_the_query_is_the_input_of_the_map_below_the_first_edited_block(base: Base, family: str) -> None:
    editor = elder(base, layers=(2, 3))
    (part,) = editor.trainer.prepare(edit_rows(base.tokenizer, EDITS[:1], "eos"))
    seen: list[torch.Tensor] = []
    block = base.model.model.layers[1] if family == "llama" else base.model.transformer.h[1]
    module = block.mlp.down_proj if family == "llama" else block.mlp.c_fc
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    rows = part.rows
    base.model(input_ids=rows.input_ids, attention_mask=rows.attention_mask, position_ids=rows.position_ids)
    handle.remove()
    torch.testing.assert_close(part.query, seen[0][torch.arange(len(part.query)), rows.key_positions])


@pytest.mark.parametrize("init", ["reference", "standard"])
def test_maps_begin_within_the_bound_of_their_init(base: Base, init: str, family: str) -> None:
    editor = elder(base, init=init, alpha=4.0)
    width = editor.mixtures[0].a.shape[0]
    bound = 1 / math.sqrt(2 if init == "reference" else width)
    largest = max(float(m.a.abs().max()) for m in editor.mixtures)
    assert 0.9 * bound < largest <= bound
    assert all(m.scale == 2.0 for m in editor.mixtures)


def test_answers_beyond_the_allocations_are_refused_before_anything_is_learnt(
    base: Base, edited_once: Callable[..., Any]
) -> None:
    from elder.errors import ConfigError

    editor = elder(base, layers=(2,), experts=2, top_k=1, batch_size=3)
    before = editor.state_dict()
    with pytest.raises(ConfigError, match="used up all allocations"):
        editor.edit(EDITS[:3])
    assert all(torch.equal(before[n], t) for n, t in editor.state_dict().items() if n.startswith("mixtures"))
