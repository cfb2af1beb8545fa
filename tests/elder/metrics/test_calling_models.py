"""Generation, scoring and batching on a real (tiny, random) Llama."""

from __future__ import annotations

import math

import pytest
import torch

from elder.edit import Edit, Probe
from elder.metrics.batching import ProgressMeter, run_batched
from elder.metrics.evaluator import Evaluator
from elder.metrics.generation import Decoder, generate
from elder.metrics.scoring import Pair, score
from elder.runtime import LocalRuntime
from elder.tokens import encode_prompt, pad_id

RUNTIME = LocalRuntime("cpu")
TEXTS = ["Ada lives in", "The home town of the famous painter is", "x", "Where? In", "a b c d e f g"]


@pytest.fixture
def rows(byte_tokenizer):
    return [tuple(encode_prompt(byte_tokenizer, text)) for text in TEXTS]


def plain_greedy(model, row, stops, limit):
    ids = list(row)
    for _ in range(limit):
        ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return tuple(ids[len(row) :])


def test_batched_generation_equals_plain_greedy_decoding(tiny_llama, byte_tokenizer, rows):
    decoder = Decoder.to_stop(byte_tokenizer, limit=10, batch_size=2, context=128)
    found = generate(tiny_llama, rows, decoder, RUNTIME)
    assert [c.ids for c in found] == [plain_greedy(tiny_llama, row, decoder.stops, 10) for row in rows]
    assert all(c.finished == (c.ids[-1] in decoder.stops) for c in found)


def test_generation_ignores_the_models_own_sampling_config(tiny_llama, byte_tokenizer, rows, monkeypatch):
    decoder = Decoder.to_stop(byte_tokenizer, limit=10, batch_size=8)
    plain = generate(tiny_llama, rows, decoder, RUNTIME)
    for name, value in {"do_sample": True, "repetition_penalty": 5.0, "no_repeat_ngram_size": 1}.items():
        monkeypatch.setattr(tiny_llama.generation_config, name, value)
    assert generate(tiny_llama, rows, decoder, RUNTIME) == plain


def test_the_context_limits_the_answer(tiny_llama, byte_tokenizer):
    row = tuple(encode_prompt(byte_tokenizer, "y" * 120))  # 121 of 128 positions
    decoder = Decoder.to_stop(byte_tokenizer, limit=50, batch_size=1, context=128)
    assert len(generate(tiny_llama, [row], decoder, RUNTIME)[0].ids) <= 7


def test_long_texts_do_not_stop(tiny_llama, byte_tokenizer, rows):
    through = Decoder(byte_tokenizer, frozenset(), 20, 8, 128, through=True)
    for continuation in generate(tiny_llama, rows, through, RUNTIME):
        assert len(continuation.ids) == 20
        assert byte_tokenizer.eos_token_id not in continuation.ids


def test_text_ends_before_a_newline_inside_a_token(byte_tokenizer):
    ids = byte_tokenizer("Paris\nand", add_special_tokens=False)["input_ids"]
    cut = Decoder.to_stop(byte_tokenizer, 16, 1).cut(ids)
    assert (cut.text, cut.finished, len(cut.ids)) == ("Paris", True, 6)
    assert Decoder.to_stop(byte_tokenizer, 16, 1).cut(ids[:5]).finished is False


def test_scores_equal_a_plain_right_padded_forward(tiny_llama, byte_tokenizer, rows):
    """R5: padding side and amount do not change a score."""
    pairs = [Pair(row, tuple(range(10, 10 + n))) for row, n in zip(rows, (1, 4, 2, 7, 3), strict=True)]
    found = score(tiny_llama, pairs, 3, RUNTIME, pad_id(byte_tokenizer))
    width = max(map(len, pairs))
    ids = torch.tensor([[*p.prompt, *p.target] + [2] * (width - len(p)) for p in pairs])
    mask = torch.tensor([[1] * len(p) + [0] * (width - len(p)) for p in pairs])
    log_probs = tiny_llama(input_ids=ids, attention_mask=mask).logits.log_softmax(-1)
    for row, (pair, scores) in enumerate(zip(pairs, found, strict=True)):
        places = range(len(pair.prompt) - 1, len(pair) - 1)
        expected = [-float(log_probs[row, t, token]) for t, token in zip(places, pair.target, strict=True)]
        assert scores.nlls == pytest.approx(expected, abs=1e-4)
        assert scores.argmax == tuple(int(log_probs[row, t].argmax()) for t in places)
        assert scores.nll == pytest.approx(sum(expected) / len(expected), abs=1e-4)


def test_batch_size_changes_nothing(tiny_llama, byte_tokenizer, rows):
    pairs = [Pair(row, (40, 41)) for row in rows]
    one, all_at_once = (score(tiny_llama, pairs, n, RUNTIME, pad_id(byte_tokenizer)) for n in (1, 16))
    for a, b in zip(one, all_at_once, strict=True):
        assert a.argmax == b.argmax
        assert a.nlls == pytest.approx(b.nlls, abs=1e-4)


def test_identity_editor_keeps_everything(llama_editor):
    edit = Edit("Ada lives in", "Paris", locality=(Probe("Bo lives in"), Probe("Cy was born near the old town of")))
    evaluator = Evaluator(llama_editor, max_new_tokens=8)
    report = evaluator.measure([edit], parts=("reliability", "locality", "perplexity"))
    assert report.metrics["locality.generate"] == report.metrics["locality.forced"] == 1.0
    assert report.metrics["reliability.generate"] == report.metrics["reliability.forced"] == 0.0
    assert report.metrics["perplexity"] == pytest.approx(report.metrics["perplexity_base"])
    assert 1 < report.metrics["perplexity"] < math.inf


def test_teacher_forcing_on_an_own_answer_agrees_with_generation(tiny_llama, byte_tokenizer, rows):
    decoder = Decoder.to_stop(byte_tokenizer, limit=6, batch_size=4)
    said = generate(tiny_llama, rows, decoder, RUNTIME)
    pairs = [Pair(row, c.ids) for row, c in zip(rows, said, strict=True)]
    for pair, scores in zip(pairs, score(tiny_llama, pairs, 4, RUNTIME, pad_id(byte_tokenizer)), strict=True):
        assert scores.argmax == pair.target


def test_results_come_back_in_order_and_batches_are_sorted():
    batches: list[list[str]] = []

    def run(batch):
        batches.append(batch)
        return [text.upper() for text in batch]

    assert run_batched(["a", "ccc", "bb", "dddd"], len, 2, RUNTIME, run) == ["A", "CCC", "BB", "DDDD"]
    assert batches == [["dddd", "ccc"], ["bb", "a"]]
    assert run_batched([], len, 2, RUNTIME, run) == []


@pytest.mark.parametrize(("sharded", "calls"), [(True, [3, 3]), (False, [3, 2])])
def test_sharded_ranks_run_the_same_number_of_batches(on_ranks, sharded, calls):
    """Five items on two ranks, one a batch: rank 1 has two, and must still run three when the model is sharded."""

    def program(runtime):
        seen: list[list[int]] = []
        meter = ProgressMeter(total=5)

        def run(batch):
            seen.append(batch)
            return [10 * item for item in batch]

        return run_batched([3, 1, 5, 2, 4], lambda item: item, 1, runtime, run, meter), seen, meter.done

    results = on_ranks(program, 2, sharded)
    assert [result for result, _, _ in results] == [[30, 10, 50, 20, 40]] * 2
    assert [len(seen) for _, seen, _ in results] == calls
    assert [done for _, _, done in results] == [5, 5]
