"""Which tokens of a tokenizer go on the word of the token before. Knows nothing of models or editing."""

from __future__ import annotations

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from elder.joining import spaceless


def continuing(tokenizer: PreTrainedTokenizerBase) -> Tensor:
    """(V,) bool: ids that begin with a letter or a digit and are decoded without a space before it.

    Scripts without spaces have no such bounds, so their letters never count; nor do parts of letters, special tokens,
    and the whole words of tokenizers that split at white space.
    """
    special = set(tokenizer.all_special_ids)
    marks = [number not in special and _goes_on(tokenizer, number) for number in range(len(tokenizer))]
    return torch.tensor(marks, dtype=torch.bool)


def _goes_on(tokenizer: PreTrainedTokenizerBase, number: int) -> bool:
    text: str = tokenizer.decode([number])  # type: ignore[assignment]
    if not text or not text[0].isalnum() or spaceless(text[0]):
        return False
    return bool(tokenizer.decode([number, number]) == text + text)
