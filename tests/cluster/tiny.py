"""Tiny random models of two architectures in hub layout, with a word-level tokenizer, and edits they can read."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from elder.edit import Edit, Probe

ARCHITECTURES = ("llama", "gpt2")
WORDS = ["<pad>", "<eos>", "<unk>", "The", "colour", "of", "thing", "is", "Water", "what", "has", "a", "?", ".", "\n"]
THINGS, SHADES = 24, 16


def vocabulary() -> dict[str, int]:
    """Words to numbers: the frame words, then things and shades."""
    words = WORDS + [f"t{i}" for i in range(THINGS)] + [f"s{i}" for i in range(SHADES)]
    return {word: i for i, word in enumerate(words)}


def write_model(directory: Path, architecture: str, shard_size: str = "60KB") -> Path:
    """A model of about 0.2M parameters with random weights, written in several safetensors files."""
    words = vocabulary()
    common = {"vocab_size": len(words), "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    torch.manual_seed(0)
    if architecture == "llama":
        shape = LlamaConfig(
            hidden_size=64, intermediate_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
            max_position_embeddings=64, **common,
        )  # fmt: skip
        model = LlamaForCausalLM(shape)
    else:
        model = GPT2LMHeadModel(GPT2Config(n_embd=64, n_layer=4, n_head=4, n_positions=64, **common))
    model.save_pretrained(directory, max_shard_size=shard_size)
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    tokenizer.save_pretrained(directory)
    return directory


def make_edits(count: int) -> list[Edit]:
    """Edits in the words of the tokenizer."""
    return [
        Edit(
            f"The colour of t{i} is",
            f"s{i % SHADES}",
            subject=f"t{i}",
            rephrases=(f"what colour has t{i} ?", f"t{i} has a colour . The colour is"),
            locality=(Probe(f"what is thing t{THINGS - 1 - i} ?"),),
        )
        for i in range(count)
    ]
