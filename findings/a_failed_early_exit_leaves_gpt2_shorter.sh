#!/usr/bin/env bash
# Finding: generate(assistant_early_exit=...) raises on GPT-2, and the model cannot generate any more afterwards.
#
# Version:  transformers 5.23.0, torch 2.13.0, Python 3.11, CPU.
# Input:    a GPT-2 of four blocks with random weights; generate(ids, assistant_early_exit=2), the documented way to let
#           the first blocks of a model draft for the whole.
# Expected: it drafts, or it is refused; a call that raises leaves the model as it was.
# Seen:     IndexError. The number of layers in the model's own config has been lowered for the drafts and is not put
#           back: every later generate() of that model, plain ones too, raises IndexError as well. A Llama of the same
#           size drafts and stays as it was.
# Output:   llama: drafts, layers 4 -> 4, plain generate afterwards: works
#           gpt2: IndexError, layers 4 -> 2, plain generate afterwards: IndexError
# Exit:     0 while this is so; 1 when it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy
"$place/venv/bin/pip" install -q transformers==5.23.0
cat > "$place/seen.py" <<'PYTHON'
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

common = {"vocab_size": 64, "bos_token_id": None, "eos_token_id": None, "pad_token_id": 0}
llama = LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=2, max_position_embeddings=64, **common
)
gpt2 = GPT2Config(n_embd=32, n_layer=4, n_head=2, n_positions=64, **common)


def tried(model, **options):
    try:
        model.generate(torch.arange(1, 9)[None], max_new_tokens=4, do_sample=False, **options)
    except Exception as error:
        return type(error).__name__
    return "works"


lines = []
for name, model in (("llama", LlamaForCausalLM(llama).eval()), ("gpt2", GPT2LMHeadModel(gpt2).eval())):
    early = tried(model, assistant_early_exit=2)
    lines.append(
        f"{name}: {'drafts' if early == 'works' else early}, layers 4 -> {model.config.num_hidden_layers}, "
        f"plain generate afterwards: {tried(model)}"
    )
print("\n".join(lines))
expected = [
    "llama: drafts, layers 4 -> 4, plain generate afterwards: works",
    "gpt2: IndexError, layers 4 -> 2, plain generate afterwards: IndexError",
]
sys.exit(lines != expected)
PYTHON
"$place/venv/bin/python" "$place/seen.py" 2> /dev/null
