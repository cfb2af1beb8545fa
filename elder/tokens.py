"""The one rule by which texts become token ids: prompts, answers behind prompts, padded batches.

Editors and metrics both use it, so that an answer is trained and judged on the same ids. Knows
nothing of models, edits or files.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

SPACE_PIECE = "▁"  # how sentencepiece vocabularies write a space
NEWLINE_MARKS = ("\n", "Ċ", "<0x0A>")  # a newline in plain, byte-level and byte-fallback vocabularies


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: str) -> list[int]:
    """The ids of a prompt that is about to be continued.

    Special tokens stand as the tokenizer puts them (LLaMA: BOS in front; GPT-2: none), but an EOS
    that some tokenizers put at the end is taken off. An empty prompt is the BOS token alone.

    Raises:
        ValueError: The prompt is empty and the tokenizer has no BOS token.
    """
    ids: list[int] = list(tokenizer(prompt)["input_ids"])
    if len(ids) > 1 and ids[-1] == tokenizer.eos_token_id and not prompt.endswith(str(tokenizer.eos_token)):
        ids.pop()
    if not ids:
        if tokenizer.bos_token_id is None:
            raise ValueError("an empty prompt has no tokens and this tokenizer has no BOS token to stand in for it")
        ids = [int(tokenizer.bos_token_id)]
    return ids


def encode_target(tokenizer: PreTrainedTokenizerBase, prompt: str, target: str) -> list[int]:
    """The ids of an answer as it continues a prompt, one space between the two.

    `prompt + " " + target` is encoded as one text and the ids of the prompt are cut off. Where they
    are no prefix of the whole (the tokenizer merged over the seam) the answer is encoded by itself,
    without special tokens: as `" " + target`, or as `target` alone for tokenizers that put a space in
    front of every text on their own (LLaMA-2's), which would otherwise yield a second space piece.
    """
    head = encode_prompt(tokenizer, prompt)
    whole = encode_prompt(tokenizer, f"{prompt} {target}")
    if len(whole) > len(head) and whole[: len(head)] == head:
        return whole[len(head) :]
    bare = _plain(tokenizer, target)
    if bare and str(tokenizer.convert_ids_to_tokens(bare[0])).startswith(SPACE_PIECE):
        return bare
    return _plain(tokenizer, f" {target}")


def pad_left(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device | str) -> tuple[Tensor, Tensor, Tensor]:
    """One batch from rows of unequal length, filled up on the left so that all rows end together.

    Args:
        rows: B rows of token ids, none empty.
        pad_id: The id that fills the free places.
        device: Where the tensors are wanted.

    Returns:
        `input_ids`, `attention_mask` and `position_ids`, each (B, T) int64. Positions count the real
        tokens of a row from 0; padding has position 0. They are explicit because models otherwise
        count the padding too.

    Raises:
        ValueError: There is no row, or a row is empty.
    """
    if not rows or not all(len(row) for row in rows):
        raise ValueError("pad_left needs at least one row and no empty rows")
    width = max(len(row) for row in rows)
    input_ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows], dtype=torch.long)
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(width)[None, :] >= width - lengths[:, None]).long()
    positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
    return input_ids.to(device), mask.to(device), positions.to(device)


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id that fills batches: the padding token, else EOS, else 0 (it is masked in any case)."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of token ids, special tokens left out, white space as the model wrote it."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False))


def newline_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    """All ids whose text holds a newline: any of them ends a free answer.

    Candidates are found by their spelling in the vocabulary and confirmed by decoding, so that a
    vocabulary of 100,000 entries costs milliseconds.
    """
    marked = [i for piece, i in tokenizer.get_vocab().items() if any(mark in str(piece) for mark in NEWLINE_MARKS)]
    return frozenset(int(i) for i in marked if "\n" in decode(tokenizer, [i]))


def end_ids(model: PreTrainedModel) -> frozenset[int]:
    """The ids at which `model.generate` stops: one, several (Gemma-it, Llama 3, Qwen) or none."""
    ends = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    return frozenset(int(end) for end in ([] if ends is None else [ends] if isinstance(ends, int) else ends))


def stop_ids(tokenizer: PreTrainedTokenizerBase, ends: Collection[int] = ()) -> frozenset[int]:
    """The natural stops of a free answer: EOS, the model's own `ends`, and every id that holds a newline."""
    eos = tokenizer.eos_token_id
    return newline_ids(tokenizer) | frozenset(ends) | (frozenset() if eos is None else frozenset({int(eos)}))


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
