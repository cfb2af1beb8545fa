"""The model, the tokenizer and the edits that are measured on: made on the spot, random weights, fixed seeds."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from elder.base import Base
from elder.edit import Edit
from elder.models.load import wrap_base
from elder.tokens import encode_prompt, pad_id, pad_left

SPECIAL = ("<pad>", "<eos>", "<unk>", ".")


@dataclass(frozen=True)
class Shape:
    """Size of the model; `vocabulary / width` is LLaMA2-7B's, so that full logits weigh what they weigh there."""

    width: int = 512
    inner: int = 1376
    depth: int = 16
    heads: int = 8
    vocabulary: int = 4096
    prompt: tuple[int, int] = (16, 40)  # shortest and longest prompt, in tokens


FULL = Shape()
TINY = Shape(width=64, inner=160, depth=8, heads=4, vocabulary=256, prompt=(6, 12))


def make_base(shape: Shape, device: str = "cpu", seed: int = 0) -> Base:
    """A Llama of the given shape with random weights, and a word-level tokenizer for it."""
    words = {word: i for i, word in enumerate([*SPECIAL, *(f"w{i}" for i in range(shape.vocabulary - len(SPECIAL)))])}
    inner = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
    config = LlamaConfig(
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.depth,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        vocab_size=shape.vocabulary,
        max_position_embeddings=256,
        bos_token_id=None,
        eos_token_id=1,
        pad_token_id=0,
        initializer_range=1.2 * shape.width**-0.5,  # so that prompts differ enough in their queries to be told apart
    )
    torch.manual_seed(seed)
    return wrap_base(LlamaForCausalLM(config).to(device), tokenizer, "bench", None)


def make_edits(count: int, shape: Shape, seed: int = 0) -> list[Edit]:
    """Edits of random words, formed like the embedded world's: a prompt, two rephrases to train on, two held out.

    The answer has two or three words.
    """
    rng = random.Random(f"bench/{seed}")
    edits = []
    for _ in range(count):
        subject = _words(rng, 3, shape)
        texts = [f"{_words(rng, n - 3, shape)} {subject}" for n in _lengths(rng, 5, shape)]
        target = _words(rng, rng.choice((2, 3)), shape)
        edits.append(Edit(texts[0], target, subject=subject, rephrases=tuple(texts[1:])))
    return edits


def make_prompts(count: int, shape: Shape, seed: int = 0) -> list[str]:
    """Prompts of random words that no edit is about."""
    rng = random.Random(f"bench/prompts/{seed}")
    return [_words(rng, n, shape) for n in _lengths(rng, count, shape)]


def batch_of(base: Base, prompts: list[str]) -> dict[str, Tensor]:
    """Left-padded prompts as arguments of a model."""
    ids = [encode_prompt(base.tokenizer, prompt) for prompt in prompts]
    input_ids, mask, _ = pad_left(ids, pad_id(base.tokenizer), base.runtime.device)
    return {"input_ids": input_ids, "attention_mask": mask}


def _lengths(rng: random.Random, count: int, shape: Shape) -> list[int]:
    return [rng.randint(*shape.prompt) for _ in range(count)]


def _words(rng: random.Random, count: int, shape: Shape) -> str:
    return " ".join(f"w{rng.randrange(shape.vocabulary - len(SPECIAL))}" for _ in range(count))
