"""Likelihoods and completions of plain texts by edited models: told where the prompt ends, whole, cut, in any order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from elder.base import Base, Editor
from elder.editors.make import make_editor
from elder.errors import ConfigError, DataError
from elder.metrics.completions import Ask, Completer
from elder.metrics.scoring import Pair, score
from elder.runtime import LocalRuntime
from elder.tokens import encode_prompt, encode_target
from tests.elder.tiny import EDITS, OPTIONS, OTHERS, make_base, make_tokenizer, on_ranks, padded

FACTS = EDITS[:2]
LEARNING = {
    "elder-plus": {**OPTIONS["elder-plus"], "steps": 60, "rank": 8, "prefixes": 0},
    "elder": {**OPTIONS["elder"], "steps": 120, "lr": 1e-2},
}


def learnt(base: Base, method: str) -> Editor:
    """An editor that says the targets of `FACTS`."""
    editor = make_editor(method, base, **LEARNING[method])
    editor.edit(FACTS)
    return editor


@pytest.fixture(scope="module", params=[("elder-plus", "llama"), ("elder", "gpt2")], ids="-".join)
def editor(request: pytest.FixtureRequest, base_of: Callable[..., Base]) -> Editor:
    return learnt(base_of(request.param[1]), request.param[0])


def by_hand(model: torch.nn.Module, ids: list[int], begin: int, **told: object) -> float:
    """Log-likelihood of the ids from `begin` on, from a plain pass over one row."""
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False, **told).logits[0, :-1].float()
    return float(logits.log_softmax(-1).gather(1, torch.tensor(ids[1:])[:, None])[begin - 1 :].sum())


def test_an_edit_shows_in_the_likelihood_of_its_answer(editor: Editor) -> None:
    base, both = editor.base, Completer(editor, 4)
    pairs = [both.pair(edit.prompt, f" {edit.target}") for edit in FACTS]
    found = both.likelihoods(pairs)
    ours = score(editor.model, pairs, 4, base.runtime, 2, editor.routed_at)
    assert [value for value, _ in found] == [-sum(one.nlls) for one in ours]
    before = Completer(base, 4).likelihoods(pairs)
    for (value, greedy), (old, was) in zip(found, before, strict=True):
        assert greedy
        assert not was
        assert value > old + 5
    for pair, (value, _) in zip(pairs, found, strict=True):
        told = by_hand(editor.model, [*pair.prompt, *pair.target], len(pair.prompt), prompt_length=len(pair.prompt))
        assert value == pytest.approx(told, abs=1e-4)


def test_what_no_edit_is_about_has_the_likelihood_of_the_base(editor: Editor) -> None:
    inputs = padded(editor.base, OTHERS)
    inside = editor.in_scope(inputs["input_ids"], inputs["attention_mask"])
    others = [text for text, found in zip(OTHERS, inside, strict=True) if not found]  # a random model mixes some up
    assert len(others) >= 4
    pairs = [Completer(editor, 4).pair(text, " of gold") for text in others]
    assert Completer(editor, 4).likelihoods(pairs) == Completer(editor.base, 4).likelihoods(pairs)


def test_results_come_in_the_order_asked_and_repeated_ones_too(editor: Editor) -> None:
    completer = Completer(editor, 3)
    pairs = [completer.pair(text, tail) for text in (OTHERS[2], FACTS[0].prompt, OTHERS[4]) for tail in (" Tam", " a")]
    alone = [completer.likelihoods([pair])[0][0] for pair in pairs]
    assert [value for value, _ in completer.likelihoods([*pairs, pairs[0]])] == pytest.approx([*alone, alone[0]])


def test_two_ranks_share_the_work_and_both_know_all(base_of: Callable[..., Base]) -> None:
    base = base_of("gpt2")
    asks = [Ask(text, ("e",), 8) for text in OTHERS]

    def program(runtime: LocalRuntime) -> tuple[list[tuple[float, bool]], list[str]]:
        completer = Completer(replace(base, runtime=runtime), 2)
        return completer.likelihoods([completer.pair(text, " of gold") for text in OTHERS]), completer.complete(asks)

    (likely, said), both = program(base.runtime), on_ranks(program)
    assert both[0] == both[1]
    assert [value for value, _ in both[0][0]] == pytest.approx([value for value, _ in likely], abs=1e-4)
    assert both[0][1] == said


def test_the_edited_answer_is_said_until_a_stop_text(editor: Editor) -> None:
    completer, fact = Completer(editor, 4), FACTS[0]
    assert completer.complete([Ask(fact.prompt, (), 4)]) == [f" {fact.target}"]
    long, cut, nothing = completer.complete(
        [Ask(fact.prompt, (), 12), Ask(fact.prompt, ("zzz", "am"), 12), Ask(fact.prompt, (" T",), 12)]
    )
    assert long.startswith(f" {fact.target}")
    assert (cut, nothing) == (" T", "")
    assert Completer(editor.base, 4).complete([Ask(fact.prompt, (), 4)]) != [f" {fact.target}"]


def test_a_batch_ends_each_row_where_it_ends_alone(editor: Editor) -> None:
    completer = Completer(editor, 4)
    asks = [Ask(prompt, ("am", "a", "e"), 10) for prompt in (FACTS[0].prompt, *OTHERS[:3], FACTS[1].prompt)]
    assert completer.complete(asks) == [completer.complete([ask])[0] for ask in asks]


def test_a_stop_text_ends_the_generation_itself(editor: Editor, monkeypatch: pytest.MonkeyPatch) -> None:
    widths, plain = [], editor.base.runtime.generate

    def noted(model: torch.nn.Module, **kwargs: object) -> torch.Tensor:
        output = plain(model, **kwargs)
        widths.append(output.shape[1] - kwargs["input_ids"].shape[1])  # type: ignore[attr-defined]
        return output

    monkeypatch.setattr(editor.base.runtime, "generate", noted)
    assert Completer(editor, 4).complete([Ask(FACTS[0].prompt, ("am",), 60)]) == [" T"]
    assert widths == [len(" Tam")]


def test_a_stop_that_is_a_token_of_its_own_ends_an_answer() -> None:
    completer = Completer(make_base("llama"), 2)
    assert completer._stop_ids(["</s>", "<pad>", "abc"]) == {1, 2}
    assert completer._text([*make_tokenizer(bos=False)("ab")["input_ids"], 2, 2], frozenset({1, 2}), ()) == "ab"


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_ids_are_those_that_edits_are_trained_on(base_of: Callable[..., Base], family: str) -> None:
    base = base_of(family)
    tokenizer, completer = base.tokenizer, Completer(base, 2)
    prompt, target = EDITS[0].prompt, EDITS[0].target
    expected = Pair(tuple(encode_prompt(tokenizer, prompt)), tuple(encode_target(tokenizer, prompt, target)))
    assert completer.pair(prompt, f" {target}") == expected
    assert completer.pair(f"{prompt} ", target) == expected
    begun = f"<s>{prompt}"
    assert completer.encode(begun) == [0, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    alone = completer.pair("", "Tam")
    assert alone == Pair((0,), tuple(tokenizer("Tam", add_special_tokens=False)["input_ids"]))
    with pytest.raises(DataError, match="has no tokens"):
        completer.pair(prompt, "")


def test_a_merge_over_the_seam_takes_the_answer_by_the_rule_of_training(
    base_of: Callable[..., Base], monkeypatch: pytest.MonkeyPatch
) -> None:
    completer = Completer(base_of("gpt2"), 2)
    plain = completer.encode
    merged = "river Tam"
    monkeypatch.setattr(
        completer, "encode", lambda text, special=None: [7, 8] if text == merged else plain(text, special)
    )
    expected = encode_target(completer.tokenizer, "river", "Tam")
    assert completer.pair("river", " Tam") == Pair(tuple(plain("river")), tuple(expected))


def test_a_long_text_is_scored_in_windows_each_token_once(base_of: Callable[..., Base]) -> None:
    base = base_of("gpt2")
    completer = Completer(base, 2, context=10)
    for length in (1, 9, 10, 11, 18, 19, 23):
        ids = list(range(50, 50 + length))
        windows = completer.windows(ids)
        assert [token for window in windows for token in window.target] == ids
        assert windows[0].prompt == (0,)
        assert [len(window) for window in windows] == [min(10, length + 1)] * len(windows)
    assert completer.windows([]) == []
    text = "A quiet song about"
    whole = completer.encode(text)
    by_window = sum(by_hand(base.model, [*w.prompt, *w.target], len(w.prompt)) for w in completer.windows(whole))
    assert completer.whole([text, ""]) == [pytest.approx(by_window, abs=1e-4), 0.0]
    assert Completer(base, 2).whole([text]) == [pytest.approx(by_hand(base.model, [0, *whole], 1), abs=1e-4)]


def test_what_does_not_fit_is_cut_on_the_left_with_a_word_or_refused(
    base_of: Callable[..., Base], caplog: pytest.LogCaptureFixture
) -> None:
    base = base_of("gpt2")
    small, whole = Completer(base, 2, context=12), Completer(base, 2)
    with caplog.at_level(logging.WARNING, logger="elder.metrics.completions"):
        found = small.likelihoods([small.pair("Water boils when it is", " hot")])
        said = small.complete([Ask("Water boils when it is", (), 4)])
    assert found == whole.likelihoods([Pair(tuple(whole.encode("en it is")), tuple(whole.encode(" hot")))])
    assert said == whole.complete([Ask("en it is", (), 4)])
    assert [record.args for record in caplog.records] == [(1, 12), (1, 12)]
    with pytest.raises(DataError, match="has 13 tokens; expected at most 11"):
        small.likelihoods([small.pair("a", " twelve more!")])
    with pytest.raises(ConfigError, match="at most 12 new tokens: expected 1 to 11"):
        small.complete([Ask("a", (), 4), Ask("a", (), 12)])
    with pytest.raises(ConfigError, match="expected at least 1 and 2"):
        Completer(base, 0)
