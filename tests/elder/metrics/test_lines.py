"""Where a free answer ends, and when it is the target: end tokens, lines, code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from elder.metrics.generation import Decoder, Lines
from elder.metrics.text import same_answer
from elder.tokens import TextFormat
from tests.elder.chat_templates import chat_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return chat_tokenizer(None)


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def test_one_line_ends_with_it_and_several_lines_with_the_last(tokenizer: PreTrainedTokenizerFast) -> None:
    said = ids_of(tokenizer, " a\n b\nc\nd")
    one = Decoder.to_stop(tokenizer, 20, 1)
    assert (one.cut(said).text, one.cut(said).finished) == ("a", True)
    two = one.for_answer("x\ny")
    assert (two.cut(said).text, two.cut(said).finished) == ("a\n b", True)
    assert two.cut(said).ids == tuple(ids_of(tokenizer, " a\n b\n"))
    led = one.for_answer("\n x")  # it begins with a newline
    assert led.cut(ids_of(tokenizer, "\n x\nmore")).text == "x"
    assert not two.cut(ids_of(tokenizer, " a\n b")).finished
    ended = two.cut([*ids_of(tokenizer, " a"), 1, *ids_of(tokenizer, "\nb\nc")])
    assert (ended.text, ended.finished) == ("a", True)
    assert two.for_answer("x").stops == one.stops


def test_an_end_token_that_is_no_special_one_is_not_part_of_the_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    end = ids_of(tokenizer, "~")[0]  # a token with a text of its own
    decoder = Decoder.to_stop(TextFormat(tokenizer, None, frozenset({1, end})), 20, 1)
    assert decoder.cut([*ids_of(tokenizer, " Tam"), end, 5]).text == "Tam"
    assert Decoder.to_stop(tokenizer, 20, 1, ends=[end]).stops == decoder.stops


def test_what_a_template_puts_before_answers_is_no_part_of_them(tokenizer: PreTrainedTokenizerFast) -> None:
    decoder = Decoder.to_stop(tokenizer, 40, 1).for_answer("Tam", "<think>\n\n</think>\n\n")
    assert decoder.cut([*ids_of(tokenizer, "[thought]\n"), 1]).text == "[thought]"
    plain = Decoder.to_stop(tokenizer, 40, 1).for_answer("Tam", "(hm)\n")
    assert plain.cut([*ids_of(tokenizer, "(hm)\nTam"), 1]).text == "Tam"


def test_generation_counts_the_lines_of_each_row(tokenizer: PreTrainedTokenizerFast) -> None:
    rows = [[7, 7, *ids_of(tokenizer, text)] for text in ("a\nb\n", "a\nbb", "\n\na\n")]
    width = max(map(len, rows))
    batch = torch.tensor([row + [2] * (width - len(row)) for row in rows])
    stop: Any = Lines(tokenizer, 2, 2)
    assert stop(batch, None).tolist() == [True, False, True]
    assert Decoder.to_stop(tokenizer, 4, 1).criteria(3) == {}


SAME = (
    ("x = 1", "x = 1"),
    ("x = 1 ", "x = 1"),
    ("x = 1.", "x = 1"),
    ("f(a)\n  b", "f(a)\n  b "),
    ("The Paris.", "paris"),
)
OTHERS = (
    ("X = 1", "x = 1"), ("x == 1", "x = 1"), ("f(a)\nb", "f(a)\n  b"), ("Up,\nUp", "Up,\nup"), ("Up, up", "Up,\nup"),
    ("a+b", "Paris"),
)  # fmt: skip


@pytest.mark.parametrize(("answer", "target"), SAME)
def test_the_same_answers(answer: str, target: str) -> None:
    assert same_answer(answer, target)


@pytest.mark.parametrize(("answer", "target"), OTHERS)
def test_other_answers(answer: str, target: str) -> None:
    assert not same_answer(answer, target)
