"""Eight conversations decoded together, in and out of scope mixed, against the same eight one after another.

Together means transformers' continuous batching: conversations are of different lengths, so rows leave while others go
on. The manager is made once, as a server makes it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import ContinuousBatchingConfig, GenerationConfig

from bench.figures import Clock, Effort
from bench.model import Shape, make_edits, make_prompts
from bench.timing import Figure, interleaved, paired_ratio
from elder.base import Base
from elder.editors.mixture.elder_plus import ElderPlusEditor
from elder.editors.mixture.elder_plus_options import ElderPlusOptions
from elder.tokens import encode_prompt

CONVERSATIONS = 8


def together(base: Base, shape: Shape, effort: Effort, now: Clock) -> Iterator[Figure]:
    """Tokens a second of eight conversations together, divided by those of one after another."""
    steps = min(effort.steps, 10)  # what was learnt does not matter to the time
    options = ElderPlusOptions(steps=steps, extra_steps=0, subject_threshold=0.95, answer_threshold=0.95)
    editor = ElderPlusEditor(base, options)
    edits = make_edits(CONVERSATIONS // 2, shape, seed=1)
    editor.edit(edits)
    prompts = [*(edit.prompt for edit in edits), *make_prompts(CONVERSATIONS // 2, shape)]
    inputs = [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
    limits = [
        effort.new_tokens - 2 * (i % 4) if effort.new_tokens > 8 else effort.new_tokens for i in range(len(inputs))
    ]
    answers: dict[str, list[list[int]]] = {}
    endless: dict[str, Any] = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}

    def one_by_one(_: int) -> None:
        answers["alone"] = [
            editor.model.generate(
                torch.tensor([ids]), generation_config=GenerationConfig(**endless, max_new_tokens=limit)
            )[0, len(ids) :].tolist()
            for ids, limit in zip(inputs, limits, strict=True)
        ]

    paged = ContinuousBatchingConfig(page_size=32, num_blocks=64, max_batch_tokens=512)
    attention = base.model.config._attn_implementation
    with editor.model.continuous_batching_context_manager(
        GenerationConfig(**endless), continuous_batching_config=paged, warmup=False
    ) as manager:

        def all_at_once(_: int) -> None:
            editor.model.set_attn_implementation("paged|sdpa")
            names = [manager.add_request(ids, max_new_tokens=n) for ids, n in zip(inputs, limits, strict=True)]
            done: dict[str, list[int]] = {}
            while len(done) < len(names):
                found = manager.get_result(timeout=1)
                if found is not None and found.is_finished():
                    done[found.request_id] = found.generated_tokens
            answers["together"] = [done[name] for name in names]
            editor.model.set_attn_implementation(attention)

        runs: dict[str, Callable[[int], object]] = {"alone": one_by_one, "together": all_at_once}
        times = interleaved(runs, effort.together_rounds, now)
    if answers["alone"] != answers["together"]:
        raise RuntimeError("conversations that are decoded together say something else than alone")
    speed = {name: sum(limits) / statistics.median(t) for name, t in times.items()}
    ratio = paired_ratio(times, "alone", "together")
    name = f"{CONVERSATIONS} conversations together / one after another, elder-plus, half in scope"
    yield Figure(name, speed["together"], speed["alone"], "tokens/s", ratio, 3.0, at_least=True)
