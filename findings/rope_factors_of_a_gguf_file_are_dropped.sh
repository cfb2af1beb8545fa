#!/usr/bin/env bash
# Finding: transformers loads a GGUF file of the Llama 3.1 kind as a model with other positions, without a word.
#
# Version:  transformers 5.23.0, gguf 0.19.0, torch 2.13.0, Python 3.11, CPU.
# Input:    two GGUF files of one small Llama, written by the gguf package. The second has rope_freqs.weight as well: the
#           tensor in which such files keep what the base frequencies of each rotation are divided by (Llama 3.1 and 3.2).
# Expected: the factors have an effect (rope parameters in the config, or other logits), or a warning says that a tensor
#           of the file was not used, as from_pretrained does for safetensors.
# Seen:     the tensor is left out. Both files give the same config and the same logits to the bit, at 200 positions
#           too, and nothing at the level of warnings or above is said. A model whose file has factors is another one
#           than its maker's, and the more so the longer the text.
# Output:   rope parameters equal: True · largest difference of logits: 0.0 · messages: 0
# Exit:     0 while this is so; 1 when it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy
"$place/venv/bin/pip" install -q transformers==5.23.0 accelerate gguf==0.19.0
cat > "$place/seen.py" <<'PYTHON'
import logging
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
import transformers
from transformers import AutoModelForCausalLM

WIDTH, INNER, HEADS, BLOCKS, TOKENS = 32, 64, 4, 2, 64
SHAPES = {"token_embd": (TOKENS, WIDTH), "output_norm": (WIDTH,)}
for block in range(BLOCKS):
    square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (WIDTH, WIDTH))
    norms = dict.fromkeys(("attn_norm", "ffn_norm"), (WIDTH,))
    mlp = {"ffn_gate": (INNER, WIDTH), "ffn_up": (INNER, WIDTH), "ffn_down": (WIDTH, INNER)}
    SHAPES |= {f"blk.{block}.{name}": shape for name, shape in {**square, **norms, **mlp}.items()}


def write(path, factors):
    draw = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_vocab_size(TOKENS)
    writer.add_block_count(BLOCKS)
    writer.add_context_length(256)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    for name, shape in SHAPES.items():
        writer.add_tensor(f"{name}.weight", draw.normal(0, 0.25, shape).astype(np.float32))
    if factors:
        writer.add_tensor("rope_freqs.weight", np.array([1, 1, 8, 8], np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Heard(logging.Handler):
    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        if "rope" in record.getMessage() or "used" in record.getMessage():
            self.messages.append(record.getMessage())


heard = Heard()
logging.getLogger("transformers").addHandler(heard)
here, models = Path(sys.argv[1]), []
for name, factors in (("plain.gguf", False), ("factors.gguf", True)):
    write(here / name, factors)
    models.append(AutoModelForCausalLM.from_pretrained(here, gguf_file=name, dtype=torch.float32).eval())
ids = (torch.arange(200) % TOKENS)[None]
with torch.no_grad():
    plain, other = (model(input_ids=ids).logits for model in models)
same = models[0].config.rope_parameters == models[1].config.rope_parameters
apart = float((plain - other).abs().max())
print("transformers", transformers.__version__, "gguf", "0.19.0")
print(f"rope parameters equal: {same} · largest difference of logits: {apart} · messages: {len(heard.messages)}")
sys.exit(0 if same and apart == 0.0 and not heard.messages else 1)
PYTHON
"$place/venv/bin/python" "$place/seen.py" "$place" 2> "$place/log" || { tail -5 "$place/log"; exit 1; }
