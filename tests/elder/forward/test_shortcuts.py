"""The shortcuts through the outer blocks: what they leave out is really left out, and nothing changes by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from elder.base import Base
from elder.editors.make import make_editor
from elder.mixture.samples import edit_rows
from elder.models.anatomy import anatomy
from tests.elder.tiny import EDITS, OPTIONS


@pytest.fixture
def editor(base: Base) -> Any:
    """An editor of the upper blocks, whose maps are not zero."""
    depth = len(anatomy(base.model).blocks)
    made = make_editor("elder", base, **{**OPTIONS["elder"], "layers": tuple(range(1, depth))})
    with torch.no_grad():
        for mixture in made.mixtures:
            mixture.b.normal_(std=0.3, generator=torch.Generator().manual_seed(0))
    return made


def widths_of_calls(modules: dict[str, torch.nn.Module], run: Any) -> dict[str, list[int]]:
    """How many tokens each module was really run on, call by call."""
    seen: dict[str, list[int]] = {name: [] for name in modules}
    handles = [
        module.register_forward_pre_hook(lambda _, args, name=name: seen[name].append(args[0].shape[:-1].numel()))
        for name, module in modules.items()
    ]
    run()
    for handle in handles:
        handle.remove()
    return seen


def test_steps_repeat_exactly_and_leave_out_what_they_may(editor: Any, base: Base, family: str) -> None:
    (part,) = editor.trainer.prepare(edit_rows(base.tokenizer, EDITS, "eos")[:5])
    gates = torch.full((len(editor.layers), 5, editor.options.experts), 0.3)
    losses: list[Tensor] = []
    parameters = list(editor.mixtures.parameters())
    grads = []
    for _ in range(3):  # the first watches attention, the others cut it short
        losses.append(editor.trainer.answer_losses(part, gates))
        grads.append(torch.autograd.grad(losses[-1].sum(), parameters))
    for loss, grad in zip(losses[1:], grads[1:], strict=True):
        torch.testing.assert_close(loss, losses[0])
        for one, other in zip(grad, grads[0], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    parts = editor._parts
    inside = "up_proj" if family == "llama" else "c_fc"
    first, last = editor.layers[0], len(parts.blocks) - 1
    maps = {
        "first": getattr(parts.blocks[first].mlp, inside),
        "middle": getattr(parts.blocks[first + 1].mlp, inside),
        "last": getattr(parts.blocks[last].mlp, inside),
        "head": editor._clone.get_output_embeddings(),
    }
    seen = widths_of_calls(maps, lambda: editor.trainer.answer_losses(part, gates))
    everything = part.packed.input_ids.numel()
    assert seen["middle"] == [everything]
    assert seen["last"] == [len(part.packed.kept)]
    assert len(part.packed.kept) < everything / 2
    if family == "llama":  # its edited map comes last in the MLP; GPT-2's comes first, and what follows must be run
        assert seen["first"] == []
    assert editor.trainer.exit._closing is not None


def test_the_model_is_untouched_outside_training(editor: Any, base: Base) -> None:
    rows = edit_rows(base.tokenizer, EDITS, "eos")[:3]
    before = editor.trainer.prepare(rows)[0].rows
    inputs = {"input_ids": before.input_ids, "attention_mask": before.attention_mask, "use_cache": False}
    with torch.no_grad(), editor.disabled():
        assert torch.equal(editor.model(**inputs).logits, base.model(**inputs).logits)
