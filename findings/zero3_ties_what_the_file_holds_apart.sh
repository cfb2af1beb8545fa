#!/usr/bin/env bash
# Finding: the same model directory gives two models, one whole and another one under DeepSpeed ZeRO-3.
#
# Versions: torch 2.13.0, transformers 5.23.0, deepspeed 0.19.2 (0.19.8 alike), Python 3.11, CPU, one process.
# Input:    a Llama whose file holds an lm_head of its own while config.json says tie_word_embeddings: true. People get
#           there by training the head, or by resizing one of the two matrices, and leaving the config as it was.
# Expected: transformers compares the two matrices, sees that they differ, says that it will NOT tie them, and keeps the
#           file's lm_head. So it does in a plain load.
# Seen:     under HfDeepSpeedConfig with stage 3 the comparison meets two partitioned parameters, which are empty and
#           so equal; the head is tied to the embeddings, and the file's lm_head is dropped without a warning.
# Output:   plain:  tied False, the file's head True
#           ZeRO-3: tied True, the file's head False
# Exit:     0 while this is so; 1 when it has changed.
set -euo pipefail
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
python3 -m venv "$place/venv"
export PATH="$place/venv/bin:$PATH"
pip install -q torch==2.13.0
pip install -q transformers==5.23.0 deepspeed==0.19.2 accelerate ninja setuptools
cat > "$place/seen.py" <<'PYTHON'
import json
import os
import sys
import tempfile

os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT="29547", RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
os.environ["DS_ACCELERATOR"] = "cpu"
import deepspeed
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.integrations.deepspeed import HfDeepSpeedConfig

folder = tempfile.mkdtemp()
torch.manual_seed(0)
shape = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
LlamaForCausalLM(LlamaConfig(**shape, **heads, tie_word_embeddings=False)).save_pretrained(folder)
with open(f"{folder}/config.json") as file:
    config = json.load(file)
with open(f"{folder}/config.json", "w") as file:
    json.dump({**config, "tie_word_embeddings": True}, file)
held = load_file(f"{folder}/model.safetensors")["lm_head.weight"]

plain = LlamaForCausalLM.from_pretrained(folder)
whole = (plain.lm_head.weight is plain.model.embed_tokens.weight, torch.equal(plain.lm_head.weight, held))
deepspeed.init_distributed(dist_backend="gloo", verbose=False)
alive = HfDeepSpeedConfig({"train_micro_batch_size_per_gpu": 1, "zero_optimization": {"stage": 3}})
model = LlamaForCausalLM.from_pretrained(folder)
tied = model.lm_head.weight is model.model.embed_tokens.weight
with deepspeed.zero.GatheredParameters([model.lm_head.weight]):
    sharded = (tied, torch.equal(model.lm_head.weight, held))
print(f"plain:  tied {whole[0]}, the file's head {whole[1]}")
print(f"ZeRO-3: tied {sharded[0]}, the file's head {sharded[1]}")
sys.exit(0 if (whole, sharded) == ((False, True), (True, False)) else 1)
PYTHON
python "$place/seen.py" 2> "$place/errors" || { code=$?; tail -5 "$place/errors"; exit $code; }
