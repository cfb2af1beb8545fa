"""Which tokens of a tokenizer go on the word of the token before. Knows nothing of models or editing."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from elder.joining import spaceless

SPACED = ("Ġ", "▁")  # how byte-level and SentencePiece tokenizers write the space before a word
BROKEN = "�"  # part of a letter, or no text at all


def continuing(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """(V,) bool: ids that begin with a letter or a digit and have no space before it.

    Scripts without spaces have no such bounds, so their letters never count; nor do parts of letters, and special
    tokens.
    """
    pieces = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
    special = set(tokenizer.all_special_ids)
    marks = [
        number not in special and piece is not None and not piece.startswith(SPACED) and _in_word(tokenizer, number)
        for number, piece in enumerate(pieces)
    ]
    return torch.tensor(marks, dtype=torch.bool)


def _in_word(tokenizer: PreTrainedTokenizerBase, number: int) -> bool:
    text = tokenizer.decode([number])
    return bool(text) and text[0] != BROKEN and text[0].isalnum() and not spaceless(text[0])
