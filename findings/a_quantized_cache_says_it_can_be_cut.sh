#!/usr/bin/env bash
# Finding: a quantized cache of transformers says that it can be cropped and raises when it is, so that decoding with
# prompt lookup fails in it.
#
# Version:  transformers 5.23.0, torch 2.13.0, Python 3.11, CPU.
# Input:    a Llama of two blocks with random weights; ten tokens in a QuantizedCache with the fp8 backend, which needs
#           no further package; crop(-2), which takes the last two tokens out; a prompt that repeats itself, generated
#           with prompt_lookup_num_tokens=3.
# Expected: is_croppable is False where cropping does not work, as it is for other caches, and lookup decoding then says
#           so; or crop works.
# Seen:     is_croppable is True, as the class inherits it from the plain layer, whose crop cuts key tensors that are
#           empty here. The IndexError names dimensions of a tensor, nothing of a cache. A plain cache does both.
# Output:   DynamicCache: croppable True, crop works, lookup works
#           QuantizedCache: croppable True, crop IndexError, lookup IndexError
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
import transformers
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, QuantizedCache

torch.manual_seed(0)
config = LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=64, pad_token_id=0
)
model = LlamaForCausalLM(config).eval()


def outcome(call):
    try:
        call()
    except Exception as error:
        return type(error).__name__
    return "works"


def lookup(cache):
    repeated = torch.tensor([[3, 4, 5, 3, 4, 5, 3, 4]])
    model.generate(
        repeated, prompt_lookup_num_tokens=3, max_new_tokens=6, do_sample=False, past_key_values=cache
    )


seen = {}
with torch.no_grad():
    for name, make in (("DynamicCache", DynamicCache), ("QuantizedCache", lambda config: QuantizedCache("fp8", config))):
        cache = make(config=config)
        model(input_ids=torch.arange(3, 13)[None], past_key_values=cache, use_cache=True)
        seen[name] = (cache.is_croppable, outcome(lambda: cache.crop(-2)), outcome(lambda: lookup(make(config=config))))
print("transformers", transformers.__version__)
for name, (croppable, crop, found) in seen.items():
    print(f"{name}: croppable {croppable}, crop {crop}, lookup {found}")
wanted = {"DynamicCache": (True, "works", "works"), "QuantizedCache": (True, "IndexError", "IndexError")}
sys.exit(0 if seen == wanted else 1)
PYTHON
"$place/venv/bin/python" "$place/seen.py" 2> "$place/log" || { tail -5 "$place/log"; exit 1; }
