"""Scores of the weight editors' papers: invariants 35 to 37 of their specification."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from elder.edit import Edit, Probe
from elder.editors.make import make_editor
from elder.metrics.counterfact import Contest, Record, counterfact_scores, harmonic_mean
from elder.metrics.evaluate import evaluate
from elder.metrics.fluency import ngram_entropy
from elder.metrics.scoring import Pair, score
from elder.metrics.zsre import token_accuracy
from elder.runtime import LocalRuntime
from elder.tokens import encode_prompt, encode_target
from tests.elder.tiny import EDITS, FAMILIES, make_base, make_tokenizer


def test_35_ties_fail_on_both_sides_and_the_mean_is_safe_at_zero() -> None:
    tie = Contest(1.0, 1.0)
    assert not tie.new_wins
    assert not tie.true_wins
    contests = [Contest(1.0, 2.0), Contest(2.0, 1.0), tie]
    won = counterfact_scores([Record(c) for c in contests])["counterfact.ES"]
    lost = counterfact_scores([Record(Contest(c.true, c.new)) for c in contests])["counterfact.ES"]
    assert won == lost == pytest.approx(1 / 3)
    assert harmonic_mean([0.0, 1.0, 1.0]) == 0.0
    assert counterfact_scores([Record(tie, [tie], [tie])])["counterfact.S"] == 0.0


def test_36_a_uniform_model_and_texts_of_known_entropy() -> None:
    base = make_base("llama")
    with torch.no_grad():
        base.model.lm_head.weight.zero_()
    found = score(base.model, [Pair((1, 5, 9), (7, 8))], 4, LocalRuntime(), 0)[0]
    assert found.nll == pytest.approx(math.log(base.model.config.vocab_size), rel=1e-6)
    assert ngram_entropy("word " * 9) == 0.0
    n = 12
    wanted = (math.log2(n - 1) + 2 * math.log2(n - 2)) / 3
    assert ngram_entropy(" ".join(f"w{i}" for i in range(n))) == pytest.approx(wanted)


def test_37_token_accuracy_counts_labels_only() -> None:
    assert token_accuracy([4, 5, 6, 7], [-100, 5, 9, -100]) == 0.5
    assert token_accuracy([4, 5], [4, 5]) == 1.0
    with pytest.raises(ValueError, match="no tokens"):
        token_accuracy([1], [-100])


def test_37_targets_have_as_many_tokens_with_bos_as_without() -> None:
    """Llama's tokenizer puts BOS in front of texts, GPT-2's does not."""
    with_bos, without = make_tokenizer(bos=True), make_tokenizer(bos=False)
    assert len(encode_prompt(with_bos, "Arlo is")) == len(encode_prompt(without, "Arlo is")) + 1
    assert encode_target(with_bos, "Arlo is", "red") == encode_target(without, "Arlo is", "red")


@torch.no_grad()
def answer_of(model: Any, head: list[int], right: int, tokens: int = 4) -> list[int]:
    """Ids of which the model has the first `right` ones, and no more, when it is fed with those before."""
    ids = list(head)
    for number in range(tokens):
        best = int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(best if number < right else (best + 1) % 250)
    return ids[len(head) :]


@pytest.mark.parametrize("family", FAMILIES)
def test_zsre_scores_are_shares_of_tokens(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the prompt, the held-out rephrases and the unrelated prompts with an answer, mean over edits."""
    base = make_base(family)
    right = {EDITS[0].prompt: 2, "Only this": 4, "trained": 4, "Arlo stands by": 1, "1 + 1 =": 3, "a": 4}
    monkeypatch.setattr(
        "elder.metrics.prober.encode_target",
        lambda tokenizer, prompt, answer: answer_of(base.model, encode_prompt(tokenizer, prompt), right[prompt]),
    )
    editor: Any = make_editor("elder", base, layers=(1, 2, 3))
    edit = replace(
        EDITS[0], rephrases=("trained", "Arlo stands by"), locality=(Probe("1 + 1 =", "two"), Probe("a", None))
    )
    found = evaluate(editor, [edit, Edit("Only this", "here")], protocols=("forced",), parts=("zsre",))
    assert found.metrics["zsre.efficacy"] == pytest.approx((2 / 4 + 4 / 4) / 2)
    assert found.metrics["zsre.paraphrase"] == pytest.approx(1 / 4)
    assert found.metrics["zsre.specificity"] == pytest.approx(3 / 4)
    assert [found.counts[f"zsre.{name}"] for name in ("efficacy", "paraphrase", "specificity")] == [2, 1, 1]
