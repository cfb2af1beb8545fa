"""Tiny base models whose weights are the same bits on every processor and under every version of torch.

`torch.manual_seed` does not give that: normal numbers come from logarithms and cosines, which processors round
otherwise. Here a weight is a 16-bit number out of SHAKE-256 of its name, scaled by a power of two.
"""

from __future__ import annotations

import hashlib

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import elder
from elder.base import Base
from tests.cluster.tiny import vocabulary

LARGEST = 0.5  # weights are spread evenly over -LARGEST to LARGEST; a power of two


def make_base(architecture: str, width: int = 32, depth: int = 4, dtype: torch.dtype = torch.float32) -> Base:
    """A base model called `golden:ARCHITECTURE-WIDTH`, with a tokenizer of words.

    Args:
        architecture: `llama` or `gpt2`.
        width: Of the residual stream; a multiple of 8.
        depth: Number of blocks.
        dtype: Of the weights.
    """
    model = make_model(architecture, width, depth).to(dtype).eval()
    return elder.wrap(model, make_tokenizer(), f"golden:{architecture}-{width}")


def make_model(architecture: str, width: int, depth: int) -> PreTrainedModel:
    """Norms as they are born, everything else filled by `fill`."""
    shared = {"vocab_size": len(vocabulary()), "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}
    if architecture == "llama":
        sizes = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": depth}
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64}
        model: PreTrainedModel = LlamaForCausalLM(LlamaConfig(**shared, **sizes, **heads))
    else:
        quiet = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        model = GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=depth, n_head=4, n_positions=64, **shared, **quiet))
    fill(model)
    return model


@torch.no_grad()
def fill(model: nn.Module) -> None:
    """Give every parameter but those of norms the weights that belong to its name and shape."""
    for name, parameter in model.named_parameters():
        if "norm" in name or ".ln_" in name:
            continue
        raw = hashlib.shake_256(name.encode()).digest(2 * parameter.numel())
        whole = torch.frombuffer(bytearray(raw), dtype=torch.int16)
        parameter.copy_((whole.to(parameter.dtype) * (LARGEST / 2**15)).view_as(parameter))


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Words between spaces, as `tests.cluster.tiny` numbers them."""
    inner = Tokenizer(models.WordLevel(vocabulary(), unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="<unk>")
