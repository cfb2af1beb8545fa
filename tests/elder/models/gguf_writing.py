"""Small GGUF files, written by the library that defines them: a Llama of two blocks and a byte tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import pre_tokenizers

DEPTH, WIDTH, INNER, HEADS, KEYS = 2, 32, 64, 4, 2
TEMPLATE = "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}\n{% endfor %}[assistant] "
Tensors = dict[str, Any]
ALPHABET = sorted(pre_tokenizers.ByteLevel.alphabet())
TOKENS = [*ALPHABET, "Ġt", "<s>", "</s>", "<unk>"]


def tensors(seed: int = 0) -> Tensors:
    """The weights by the names that GGUF files have, in the layout of transformers."""
    draw = np.random.default_rng(seed)
    shapes = {"token_embd": (len(TOKENS), WIDTH), "output_norm": (WIDTH,)}
    for block in range(DEPTH):
        shapes |= {
            f"blk.{block}.{name}": shape
            for name, shape in {
                "attn_q": (WIDTH, WIDTH),
                "attn_k": (WIDTH * KEYS // HEADS, WIDTH),
                "attn_v": (WIDTH * KEYS // HEADS, WIDTH),
                "attn_output": (WIDTH, WIDTH),
                "ffn_gate": (INNER, WIDTH),
                "ffn_up": (INNER, WIDTH),
                "ffn_down": (WIDTH, INNER),
                "attn_norm": (WIDTH,),
                "ffn_norm": (WIDTH,),
            }.items()
        }
    return {f"{name}.weight": draw.normal(0, 0.25, shape).astype(np.float32) for name, shape in shapes.items()}


def write_gguf(path: Path, change: Callable[[Tensors], Any] = lambda weights: None, seed: int = 0) -> Tensors:
    """Write a file with matrices in Q8_0; returns what its values are, each as a library reads it back."""
    import gguf

    kinds = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(path, "llama")
    describe(writer)
    weights = tensors(seed)
    change(weights)
    values = {}
    for name, value in weights.items():
        kind = kinds.Q8_0 if value.ndim == 2 else kinds.F32
        heads = {"attn_q": HEADS, "attn_k": KEYS}.get(name.split(".")[-2])
        packed = gguf.quants.quantize(interleaved(value, heads) if heads and value.ndim == 2 else value, kind)
        writer.add_tensor(name, packed, raw_dtype=kind)
        values[name] = gguf.quants.dequantize(gguf.quants.quantize(value, kind), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return values


def describe(writer: Any) -> None:
    """The keys that say what the tensors are, and the tokenizer."""
    writer.add_name("tiny")
    writer.add_vocab_size(len(TOKENS))
    writer.add_block_count(DEPTH)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEYS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(TOKENS)
    writer.add_token_types([1] * (len(TOKENS) - 3) + [3] * 3)
    writer.add_token_merges(["Ġ t"])
    writer.add_bos_token_id(TOKENS.index("<s>"))
    writer.add_eos_token_id(TOKENS.index("</s>"))
    writer.add_unk_token_id(TOKENS.index("<unk>"))
    writer.add_pad_token_id(TOKENS.index("</s>"))
    writer.add_chat_template(TEMPLATE)


def interleaved(weight: Any, heads: int) -> Any:
    """Rows of a query or key matrix in the order that llama.cpp rotates them in."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)
