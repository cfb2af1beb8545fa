#!/usr/bin/env bash
# Finding: after one call with output_hidden_states=True a transformers model cannot be pickled any more.
#
# Version:  transformers 5.23.0, torch 2.13.0, cloudpickle 3.1.2, Python 3.11, CPU.
# Input:    a Llama of two blocks with random weights; one forward with output_hidden_states=True, as embeddings and
#           probes are taken every day. The result is right.
# Expected: a call that reads states leaves the model as it was; it can be saved whole (torch.save) and sent to another
#           process (pickle; cloudpickle, as Ray and Dask do), as before the call.
# Seen:     the first such call hangs hooks onto the blocks that stay there. They are local functions that hold a
#           context variable, so that pickle, torch.save and cloudpickle all raise. copy.deepcopy and save_pretrained keep
#           working, and so does a model that was never asked for its states.
# Output:   before: pickle works, torch.save works, cloudpickle works, deepcopy works
#           after:  pickle AttributeError, torch.save AttributeError, cloudpickle TypeError, deepcopy works
# Exit:     0 while this is so; 1 when it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
"$place/venv/bin/pip" install -q torch==2.13.0 numpy
"$place/venv/bin/pip" install -q transformers==5.23.0 cloudpickle==3.1.2
cat > "$place/seen.py" <<'PYTHON'
import copy
import io
import pickle
import sys

import cloudpickle
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

config = LlamaConfig(
    hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=64, pad_token_id=0
)
model = LlamaForCausalLM(config)
WAYS = {
    "pickle": pickle.dumps,
    "torch.save": lambda model: torch.save(model, io.BytesIO()),
    "cloudpickle": cloudpickle.dumps,
    "deepcopy": copy.deepcopy,
}


def tried():
    seen = {}
    for name, way in WAYS.items():
        try:
            way(model)
            seen[name] = "works"
        except Exception as error:
            seen[name] = type(error).__name__
    return seen


def shown(seen):
    return ", ".join(f"{name} {outcome}" for name, outcome in seen.items())


print("transformers", transformers.__version__)
before = tried()
print("before:", shown(before))
states = model(torch.arange(4)[None], output_hidden_states=True).hidden_states
after = tried()
print("after: ", shown(after))
failed = {"pickle": "AttributeError", "torch.save": "AttributeError", "cloudpickle": "TypeError", "deepcopy": "works"}
sys.exit(0 if len(states) == 3 and set(before.values()) == {"works"} and after == failed else 1)
PYTHON
"$place/venv/bin/python" "$place/seen.py"
