"""The text after an answer: where it begins, and its loss under the base beside that of the base's own text."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from elder.edit import Edit
from elder.metrics.after_answer import EDITED, OWN, RATIO, answer_end, loss_ratio
from elder.metrics.evaluate import evaluate
from elder.metrics.evaluator import FLUENCY_TOKENS, Evaluator
from elder.tokens import encode_prompt, encode_target

PROMPTS = [f"{name} lives in {number} (" for name in ("Ada", "Bo", "Cy", "Di") for number in range(10)]


def test_an_answer_ends_with_its_target_or_at_its_stop() -> None:
    assert answer_end([5, 6, 7], [5, 6], 1) == 2
    assert answer_end([5, 9, 7], [5, 6], 2) == 2
    assert answer_end([5, 9, 7], [5, 6], None) is None  # it would not have ended: nothing comes after it
    assert answer_end([5, 6], [5, 6], None) is None


def test_the_ratio_needs_both_losses() -> None:
    assert loss_ratio({EDITED: 4.6, OWN: 2.3}) == {RATIO: 2.0}
    assert loss_ratio({EDITED: 4.6}) == loss_ratio({EDITED: 4.6, OWN: 0.0}) == {}


def test_losses_are_the_base_s_on_what_was_written(llama_editor: Any) -> None:
    """On a real model, computed by hand: greedy continuations, scored token by token."""
    base = llama_editor.base
    # Nothing comes between an opening bracket and a target. The random model's first byte is a letter after some.
    begun = ((prompt, _greedy(base.model, list(encode_prompt(base.texts, prompt)), 1)) for prompt in PROMPTS)
    prompt, answer = next((p, text) for p, ids in begun if (text := base.tokenizer.decode(ids)).isalpha())
    report = evaluate(llama_editor, [Edit(prompt, answer)], parts=("after_answer", "fluency"))
    ids = list(encode_prompt(base.texts, prompt))
    said, target = _greedy(base.model, ids, FLUENCY_TOKENS), list(encode_target(base.texts, prompt, answer))
    assert said[: len(target)] == target
    begin = [*ids, *target]
    after = said[len(target) :]
    own = _greedy(base.model, begin, FLUENCY_TOKENS)[: len(after)]
    assert report.metrics[EDITED] == pytest.approx(_loss(base.model, begin, after), rel=1e-4)
    assert report.metrics[OWN] == pytest.approx(_loss(base.model, begin, own), rel=1e-4)
    assert report.metrics[RATIO] == pytest.approx(1.0, rel=1e-4)  # an editor without edits


def test_odd_text_after_the_answer_costs_more(table_editor: Any) -> None:
    """The base writes x after the answer, where its script ends; the edited model shouts."""
    edit = Edit("Ada lives in", "Paris")
    calm = table_editor({"Ada lives in": "Paris and so on"}, {})
    loud = table_editor({"Ada lives in": "Paris and so on"}, {"Ada lives in": "Paris!?!?!?"})
    # A base that is all but certain: no ratio is 1 by rounding, so the losses themselves are compared.
    quiet, odd = (evaluate(editor, [edit], parts=("after_answer",)).metrics for editor in (calm, loud))
    assert quiet[RATIO] == pytest.approx(1.0)
    assert odd[EDITED] > 5 * quiet[EDITED]
    assert odd[OWN] == pytest.approx(quiet[OWN], rel=0.2)
    assert math.isclose(odd[RATIO], odd[EDITED] / odd[OWN])


def test_long_texts_are_written_once_for_both_parts(table_editor: Any) -> None:
    editor = table_editor({"Ada lives in": "Paris and so on"}, {})
    evaluator = Evaluator(editor, protocols=("generate",))
    report = evaluator.measure([Edit("Ada lives in", "Paris")], ("fluency", "after_answer"))
    assert editor.base.runtime.generations == [1, 1]  # the edited model's text, the base's
    assert {"fluency.generate", EDITED, OWN, RATIO} == set(report.metrics)
    evaluator.measure([Edit("Ada lives in", "Paris")], ("after_answer",))
    assert editor.base.runtime.generations == [1, 1, 1]  # the base's is known


def _greedy(model: Any, ids: list[int], count: int) -> list[int]:
    """Greedy without the end token (id 1), without a cache."""
    said: list[int] = []
    for _ in range(count):
        with torch.no_grad():
            logits = model(torch.tensor([[*ids, *said]])).logits[0, -1]
        logits[1] = -math.inf
        said.append(int(logits.argmax()))
    return said


def _loss(model: Any, before: list[int], after: list[int]) -> float:
    with torch.no_grad():
        logits = model(torch.tensor([[*before, *after]])).logits[0, len(before) - 1 : -1]
    return float(torch.nn.functional.cross_entropy(logits, torch.tensor(after)))
