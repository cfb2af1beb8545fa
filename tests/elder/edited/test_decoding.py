"""Every way in which transformers decodes gives what an edited model says to each prompt alone."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from transformers import LogitsProcessor, MistralConfig, MistralForCausalLM

from elder.editors.make import make_editor
from elder.models.load import wrap_base
from tests.elder.edited.talk import INSIDE, MIXED, OUTSIDE, PROMPTS, Alone, Session, inputs_of, said
from tests.elder.tiny import EDITS, OPTIONS, make_tokenizer

MORE = 6
LONG = 16  # so many new tokens repeat themselves, as lookups want it


class Passes:
    """Counts the passes of a model, and the widest of them behind the first."""

    def __init__(self, model: Any) -> None:
        self.widths: list[int] = []
        self._handle = model.get_input_embeddings().register_forward_hook(lambda _, args, out: self._note(out))

    def _note(self, out: torch.Tensor) -> None:
        self.widths.append(out.shape[1])

    def __enter__(self) -> Passes:
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()


def outside(editor: Any, inputs: dict[str, Any]) -> torch.Tensor:
    return ~editor.in_scope(**inputs)


# ---- how a prompt is read, and answers are drafted -------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 6, 7])
def test_prefill_in_chunks(loud: Any, alone: Alone, chunk: int) -> None:
    inputs = inputs_of(loud.base, MIXED)
    assert said(loud.model, inputs, MORE, prefill_chunk_size=chunk) == alone.each(MIXED, MORE)


@pytest.mark.parametrize("chunk", [1, 4])
def test_prefill_in_chunks_of_one_prompt_without_a_mask(loud: Any, alone: Alone, chunk: int) -> None:
    for prompt in (INSIDE[0], OUTSIDE[0]):
        ids = {"input_ids": inputs_of(loud.base, [prompt])["input_ids"]}
        assert said(loud.model, ids, MORE, prefill_chunk_size=chunk) == [alone(prompt, MORE)]


def test_prompt_lookup(loud: Any, alone: Alone) -> None:
    saved = []
    for prompt in PROMPTS:
        with Passes(loud.model) as passes:
            answer = said(loud.model, inputs_of(loud.base, [prompt]), LONG, prompt_lookup_num_tokens=3)
        assert answer == [alone(prompt, LONG)], prompt
        saved.append(LONG - len(passes.widths))
    assert max(saved) > 0  # some drafts were taken


@pytest.mark.parametrize("draft", ["base", "itself", "another"])
def test_a_draft_model(
    loud: Any, alone: Alone, edited_once: Callable[..., Any], method: str, family: str, draft: str
) -> None:
    """Whatever is drafted, the edited model answers; a base with an edited draft model stays the base."""
    models = {"base": loud.base.model, "itself": loud.model, "another": edited_once(method, family).model}
    for prompt in (INSIDE[0], INSIDE[4], OUTSIDE[0], OUTSIDE[3]):
        inputs = inputs_of(loud.base, [prompt])
        answer = said(loud.model, inputs, LONG, assistant_model=models[draft], num_assistant_tokens=4)
        assert answer == [alone(prompt, LONG)], prompt
    inputs = inputs_of(loud.base, [INSIDE[0]])
    drafted = said(loud.base.model, inputs, LONG, assistant_model=loud.model)
    assert drafted == said(loud.base.model, inputs, LONG)


def test_a_draft_of_itself_is_taken(loud: Any, alone: Alone, monkeypatch: pytest.MonkeyPatch) -> None:
    """The edits answer in the draft too, so that a draft of all tokens is right."""
    monkeypatch.setattr(loud.model.generation_config, "assistant_confidence_threshold", 0.0)
    for prompt in (INSIDE[0], OUTSIDE[0]):
        with Passes(loud.model) as passes:
            answer = said(loud.model, inputs_of(loud.base, [prompt]), LONG, assistant_model=loud.model)
        assert answer == [alone(prompt, LONG)]
        asked = prompt == INSIDE[0] and loud.method == "elder-plus"  # then the check is run again with the correction
        assert (
            len([width for width in passes.widths if width > 1]) == 2 + asked
        )  # the draft reads the prompt; one check


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_draft_that_leaves_early(
    loud_of: Callable[..., Any], alone_of: Callable[..., Alone], method: str, blocks: int
) -> None:
    """Not with a GPT-2, whose forward runs all blocks whatever its config says."""
    loud, alone = loud_of(method, "llama"), alone_of(method, "llama")
    for prompt in (INSIDE[0], OUTSIDE[0]):
        answer = said(loud.model, inputs_of(loud.base, [prompt]), LONG, assistant_early_exit=blocks)
        assert answer == [alone(prompt, LONG)]


# ---- how answers are chosen ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cache", [True, False])
def test_beams(loud: Any, cache: bool) -> None:
    options = {"num_beams": 3, "num_return_sequences": 2, "use_cache": cache}
    inputs = inputs_of(loud.base, MIXED)
    together = said(loud.model, inputs, MORE, **options)
    apart = [row for p in MIXED for row in said(loud.model, inputs_of(loud.base, [p]), MORE, **options)]
    assert together == apart
    theirs = said(loud.base.model, inputs, MORE, **options)
    rows = outside(loud, inputs).repeat_interleave(2).tolist()
    for ours, other, out in zip(together, theirs, rows, strict=True):
        assert (ours == other) == out


class Between(LogitsProcessor):
    """Asks the same model other things before each token of a generation."""

    def __init__(self, editor: Any, alone: Alone) -> None:
        self.editor, self.alone, self.wrong, self.calls = editor, alone, 0, 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        prompts = [PROMPTS[(self.calls + k) % len(PROMPTS)] for k in range(2)]
        inputs = inputs_of(self.editor.base, prompts)
        self.wrong += said(self.editor.model, inputs, 3) != self.alone.each(prompts, 3)
        with torch.no_grad():
            positions = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
            first = self.editor.model(**inputs, position_ids=positions).logits[:, -1].argmax(-1).tolist()
        self.wrong += first != [answer[0] for answer in self.alone.each(prompts, 3)]
        self.calls += 1
        return scores


@pytest.mark.parametrize("how", ["greedy", "sampled", "beams"])
def test_an_evaluation_inside_a_generation(loud: Any, alone: Alone, how: str) -> None:
    """The same model is asked other things between two tokens; neither meets the other."""
    options: dict[str, Any] = {"greedy": {}, "sampled": {"do_sample": True}, "beams": {"num_beams": 2}}[how]
    inputs = inputs_of(loud.base, MIXED)
    torch.manual_seed(3)
    wanted = said(loud.model, inputs, MORE, **options)
    between = Between(loud, alone)
    torch.manual_seed(3)
    assert said(loud.model, inputs, MORE, logits_processor=[between], **options) == wanted
    assert between.calls == MORE
    assert between.wrong == 0


def test_sampling_draws_from_what_is_said_alone(loud: Any, alone: Alone) -> None:
    answers = {}
    for name, model in (("edited", loud.model), ("base", loud.base.model)):
        for prompt in (INSIDE[0], OUTSIDE[0]):
            torch.manual_seed(11)
            answers[name, prompt] = said(model, inputs_of(loud.base, [prompt]), LONG, do_sample=True)
    assert answers["edited", OUTSIDE[0]] == answers["base", OUTSIDE[0]]
    assert answers["edited", INSIDE[0]] != answers["base", INSIDE[0]]
    torch.manual_seed(11)
    inputs = inputs_of(loud.base, [INSIDE[0]] * 3)
    many = said(loud.model, inputs_of(loud.base, [INSIDE[0]]), LONG, do_sample=True, num_return_sequences=3)
    torch.manual_seed(11)
    assert said(loud.model, inputs, LONG, do_sample=True) == many


def test_a_temperature_of_nearly_nothing_is_greedy(loud: Any, alone: Alone) -> None:
    inputs = inputs_of(loud.base, MIXED)
    assert said(loud.model, inputs, MORE, do_sample=True, temperature=1e-4) == alone.each(MIXED, MORE)


# ---- kinds of caches -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_kinds_of_caches(loud: Any, alone: Alone, kind: str, chunk: int | None) -> None:
    inputs = inputs_of(loud.base, MIXED)
    for _ in range(2):  # a static cache is longer the second time, if it was
        answer = said(loud.model, inputs, MORE, cache_implementation=kind, prefill_chunk_size=chunk)
        assert answer == alone.each(MIXED, MORE)
    answer = said(loud.model, inputs_of(loud.base, MIXED[:1]), 2 * MORE, cache_implementation=kind)
    assert answer == alone.each(MIXED[:1], 2 * MORE)


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="transformers offloads caches by streams of a device")
@pytest.mark.parametrize("kind", ["offloaded", "offloaded_static"])
def test_offloaded_caches(loud: Any, alone: Alone, kind: str) -> None:
    inputs = inputs_of(loud.base, MIXED)
    assert said(loud.model, inputs, MORE, cache_implementation=kind) == alone.each(MIXED, MORE)


@pytest.mark.parametrize("backend", ["fp8", "quanto", "hqq"])
def test_quantized_caches(loud: Any, backend: str) -> None:
    """What they say is another thing than without; each row says what it says alone in such a cache."""
    if backend != "fp8" and find_spec({"quanto": "optimum", "hqq": "hqq"}[backend]) is None:
        pytest.skip(f"{backend} is not installed")
    options = {"cache_implementation": "quantized", "cache_config": {"backend": backend}}
    theirs = Alone(loud.base, loud.base.model)
    for prompt in (INSIDE[0], INSIDE[1], OUTSIDE[0]):
        inputs = inputs_of(loud.base, [prompt])
        ours, other = said(loud.model, inputs, MORE, **options), said(loud.base.model, inputs, MORE, **options)
        assert (ours == other) == bool(outside(loud, inputs)), theirs(prompt, MORE)
        chunked = said(loud.model, inputs, MORE, prefill_chunk_size=64, **options)
        assert chunked == ours


@pytest.fixture(scope="module")
def window() -> Callable[[str], Any]:
    """Editors of a tiny Mistral that sees eight tokens back."""
    made: dict[str, Any] = {}

    def of(method: str) -> Any:
        if method not in made:
            torch.manual_seed(0)
            sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4, "num_attention_heads": 4}
            config = MistralConfig(
                vocab_size=259, num_key_value_heads=2, sliding_window=8, initializer_range=0.25, **sizes
            )
            config.bos_token_id = config.eos_token_id = None
            base = wrap_base(MistralForCausalLM(config).eval(), make_tokenizer(), "tiny:mistral")
            made[method] = make_editor(method, base, **{**OPTIONS[method], "steps": 30, "lr": 2e-2})
            made[method].edit(EDITS[:4])
        return made[method]

    return of


def test_sliding_windows(window: Callable[[str], Any], method: str) -> None:
    editor = window(method)
    alone, theirs = Alone(editor.base, editor.model), Alone(editor.base, editor.base.model)
    prompts = [*INSIDE[:4], *OUTSIDE[:3]]
    inputs = inputs_of(editor.base, prompts)
    wanted = alone.each(prompts, MORE)
    inside = (~outside(editor, inputs)).tolist()
    assert inside[:4] == [True] * 4
    assert not all(inside)
    assert [ours != other for ours, other in zip(wanted, theirs.each(prompts, MORE), strict=True)].count(True) >= 3
    for options in ({}, {"use_cache": False}, {"prefill_chunk_size": 3}, {"cache_implementation": "static"}):
        assert said(editor.model, inputs, MORE, **options) == wanted, options
    for prompt in (prompts[0], prompts[-1]):
        one = inputs_of(editor.base, [prompt])
        assert said(editor.model, one, LONG, prompt_lookup_num_tokens=2) == [alone(prompt, LONG)]
    caches = [type(editor.model.generate(**inputs, max_new_tokens=1, return_dict_in_generate=True).past_key_values)]
    sessions = [Session(editor, [p], MORE, chunk=3, cache=caches[0](config=editor.model.config)) for p in prompts]
    runs = [session.run() for session in sessions]
    while runs:
        runs = [run for run in runs if next(run, "done") != "done"]
    for session in sessions:
        assert session.said() == alone.each(session.prompts, MORE)
