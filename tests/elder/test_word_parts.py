"""Which tokens go on a word, for the ways in which tokenizers write the space before one."""

from __future__ import annotations

from elder.word_parts import continuing
from tests.elder.tiny import make_tokenizer


def test_letters_and_digits_go_on_a_word_and_signs_do_not() -> None:
    tokenizer = make_tokenizer()
    marks = continuing(tokenizer)
    assert len(marks) == len(tokenizer)
    said = {text: bool(marks[tokenizer(text, add_special_tokens=False)["input_ids"][-1]]) for text in "aZ7 .'"}
    assert said == {"a": True, "Z": True, "7": True, " ": False, ".": False, "'": False}
    assert not marks[tokenizer.all_special_ids].any()
