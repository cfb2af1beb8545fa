"""The rule by which prompts and answers become ids."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from elder.tokens import decode, encode_prompt, encode_target, newline_ids, pad_left, stop_ids


def sentencepiece_like() -> PreTrainedTokenizerFast:
    """A tokenizer that puts a space piece in front of every text, as LLaMA-2's does, and merges 'is' over a seam."""
    letters = sorted(set("▁abcdefghijklmnopqrstuvwxyzP"))
    pieces = ["<s>", "</s>", "<unk>", *letters, "▁P", "▁Pa", "s▁", "s▁P"]
    merges = [("s", "▁"), ("s▁", "P"), ("▁", "P"), ("▁P", "a")]
    raw = Tokenizer(models.BPE(vocab={p: i for i, p in enumerate(pieces)}, merges=merges, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    raw.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def test_prompt_has_bos_and_no_eos(byte_tokenizer):
    ids = encode_prompt(byte_tokenizer, "Hi")
    assert ids[0] == byte_tokenizer.bos_token_id
    assert decode(byte_tokenizer, ids) == "Hi"
    raw = byte_tokenizer.backend_tokenizer
    ending = Tokenizer.from_str(raw.to_str())
    ending.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    with_eos = PreTrainedTokenizerFast(tokenizer_object=ending, bos_token="<s>", eos_token="</s>")
    assert with_eos("Hi")["input_ids"][-1] == 1
    assert encode_prompt(with_eos, "Hi") == ids
    assert decode(with_eos, encode_target(with_eos, "Hi", "you")) == " you"


def test_empty_prompt_is_bos_or_refused(byte_tokenizer):
    assert encode_prompt(byte_tokenizer, "") == [byte_tokenizer.bos_token_id]
    silent = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE(vocab={"a": 0}, merges=[])))
    with pytest.raises(ValueError, match="no BOS"):
        encode_prompt(silent, "")


def test_target_continues_the_prompt(byte_tokenizer):
    prompt, target = "The capital of France is", "Paris"
    ids = encode_prompt(byte_tokenizer, prompt) + encode_target(byte_tokenizer, prompt, target)
    assert ids == encode_prompt(byte_tokenizer, "The capital of France is Paris")


def test_target_of_a_merging_tokenizer_has_one_space():
    """Where the seam is merged the answer stands alone, with one space piece and not two."""
    tokenizer = sentencepiece_like()
    prompt = "the cat is"
    whole = encode_prompt(tokenizer, f"{prompt} Pa")
    assert whole[: len(encode_prompt(tokenizer, prompt))] != encode_prompt(tokenizer, prompt)
    pieces = tokenizer.convert_ids_to_tokens(encode_target(tokenizer, prompt, "Pa"))
    assert pieces == ["▁Pa"]


def test_pad_left_shapes_masks_and_positions():
    ids, mask, positions = pad_left([[5, 6, 7], [8]], 9, "cpu")
    assert ids.tolist() == [[5, 6, 7], [9, 9, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]
    assert positions.tolist() == [[0, 1, 2], [0, 0, 0]]
    assert ids.dtype == mask.dtype == positions.dtype == torch.long


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_pad_left_refuses_empty_rows(rows):
    with pytest.raises(ValueError, match="no empty rows"):
        pad_left(rows, 0, "cpu")


def test_stops_are_eos_and_newlines(byte_tokenizer):
    newline = byte_tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert newline_ids(byte_tokenizer) == frozenset(newline)
    assert stop_ids(byte_tokenizer) == frozenset([*newline, byte_tokenizer.eos_token_id])
