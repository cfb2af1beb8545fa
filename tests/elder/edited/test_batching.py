"""transformers' own continuous batching: rows join and leave, prompts come in pieces, each says what it says alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from elder.base import Base
from elder.editors.make import make_editor
from elder.errors import ModelError
from elder.tokens import encode_prompt
from tests.elder.tiny import EDITS, OPTIONS, OTHERS

LONG = "A long text that comes in pieces and says many things about the sea, and then: "
PROMPTS = [EDITS[0].prompt, OTHERS[0], LONG + EDITS[1].prompt, EDITS[1].prompt, OTHERS[2], LONG, EDITS[0].prompt]
LENGTHS = [6, 3, 5, 8, 2, 7, 4]
SMALL = {"num_blocks": 64, "page_size": 8}  # the default plans for nearly all memory


@pytest.fixture(params=["llama"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@contextmanager
def paged(model: Any) -> Iterator[None]:
    """Attention over pages, which continuous batching needs on a CPU."""
    before = model.config._attn_implementation
    model.set_attn_implementation("paged|sdpa")
    try:
        yield
    finally:
        model.set_attn_implementation(before)


def alone(model: Any, base: Base, **options: Any) -> list[list[int]]:
    said = []
    for prompt, length in zip(PROMPTS, LENGTHS, strict=True):
        ids = torch.tensor([encode_prompt(base.tokenizer, prompt)])
        out = model.generate(ids, max_new_tokens=length, do_sample=False, **options)
        said.append(out[0, ids.shape[1] :].tolist())
    return said


def together(model: Any, base: Base, **config: Any) -> list[list[int]]:
    """The answers when all requests wait together; they are of different lengths, so that rows leave one by one."""
    greedy = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=2)
    settings = ContinuousBatchingConfig(**{**SMALL, **config})
    with (
        paged(model),
        model.continuous_batching_context_manager(greedy, continuous_batching_config=settings, warmup=False) as manager,
    ):
        names = [
            manager.add_request(encode_prompt(base.tokenizer, prompt), max_new_tokens=length)
            for prompt, length in zip(PROMPTS, LENGTHS, strict=True)
        ]
        done: dict[str, Any] = {}
        while len(done) < len(names):
            found = manager.get_result(timeout=5)
            assert found is not None or manager.is_running()
            if found is not None and found.is_finished():
                done[found.request_id] = found
    errors = [done[name].error for name in names if done[name].error]
    if errors:
        raise ModelError(errors[0])
    return [done[name].generated_tokens for name in names]


@pytest.mark.parametrize("budget", [16, 512])
def test_requests_decoded_together_say_what_they_say_alone(loud: Any, base: Base, method: str, budget: int) -> None:
    if method == "elder" and budget == 16:
        with pytest.raises(ModelError, match=r"corrects whole prompts: raise max_batch_tokens"):
            together(loud.model, base, max_batch_tokens=budget)
        return
    wanted, plain = alone(loud.model, base), alone(base.model, base)
    assert wanted != plain  # the edits make a difference
    assert together(loud.model, base, max_batch_tokens=budget) == wanted
    with loud.disabled():
        assert alone(loud.model, base) == plain


def test_correcting_whole_prompts_needs_them_whole(base: Base) -> None:
    editor = make_editor("elder-plus", base, **{**OPTIONS["elder-plus"], "start": "prompt"})
    editor.edit(EDITS[:2])
    assert together(editor.model, base, max_batch_tokens=512) == alone(editor.model, base)
    with pytest.raises(ModelError, match="split a prompt"):
        together(editor.model, base, max_batch_tokens=16)


def test_settings_that_edits_need_are_made_in_a_copy(edited: Any) -> None:
    given = ContinuousBatchingConfig(**SMALL, max_batch_tokens=64, allow_block_sharing=True)
    manager = edited.model.init_continuous_batching(GenerationConfig(eos_token_id=-1), given)
    made = manager.continuous_batching_config
    assert given.allow_block_sharing
    assert not made.allow_block_sharing
    assert made.max_blocks_per_request == 0
