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


@pytest.mark.parametrize("family", FAMILIES)
def test_zsre_scores_are_shares_of_tokens(family: str) -> None:
    base = make_base(family)
    editor: Any = make_editor("elder", base, layers=(1, 2, 3))
    edit = replace(
        EDITS[0], rephrases=("unused", "Arlo stands by"), locality=(Probe("1 + 1 =", "two"), Probe("a", None))
    )
    found = evaluate(editor, [edit, Edit("Only this", "here")], protocols=("forced",), parts=("zsre",))

    def share(prompt: str, answer: str) -> float:
        head, tail = encode_prompt(base.tokenizer, prompt), encode_target(base.tokenizer, prompt, answer)
        with torch.no_grad():
            best = base.model(input_ids=torch.tensor([head + tail])).logits[0, len(head) - 1 : -1].argmax(-1)
        return float((best == torch.tensor(tail)).float().mean())

    efficacy = (share(edit.prompt, edit.target) + share("Only this", "here")) / 2
    assert found.metrics["zsre.efficacy"] == pytest.approx(efficacy)
    assert found.metrics["zsre.paraphrase"] == pytest.approx(share("Arlo stands by", edit.target))
    assert found.metrics["zsre.specificity"] == pytest.approx(share("1 + 1 =", "two"))
    assert found.counts["zsre.paraphrase"] == 1


def test_zsre_scores_count_single_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """An answer of which the model has some tokens right scores between 0 and 1."""
    base = make_base("llama")
    head = encode_prompt(base.tokenizer, "Seven")
    with torch.no_grad():
        ids = base.model.generate(input_ids=torch.tensor([head]), max_new_tokens=1, do_sample=False)[0].tolist()
    first = ids[-1]
    monkeypatch.setattr("elder.metrics.prober.encode_target", lambda *_: [first, (first + 1) % 250])
    editor: Any = make_editor("elder", base, layers=(1, 2, 3))
    found = evaluate(editor, [Edit("Seven", "x")], protocols=("forced",), parts=("zsre",))
    assert found.metrics["zsre.efficacy"] >= 0.5
