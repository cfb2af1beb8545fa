"""Every model family that is tried: four blocks with random weights, and a tokenizer in which the answer is one token.

Windows and chunks are 16 tokens where a family has them; the long prompts of the tests are several times that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from elder.base import Base
from elder.models.load import wrap_base
from elder.runtime import LocalRuntime

WINDOW = 16
ANSWER = "Q"
COMMON = {
    "vocab_size": 260,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
    "initializer_range": 0.25,
}
PLAIN = {
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 256,
    "intermediate_size": 48,
}
GROUPED = {**PLAIN, "num_key_value_heads": 2}
HEADS = {**GROUPED, "head_dim": 8}
OLD = {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 256}
SLIDING = {"sliding_window": WINDOW}
MIXED = {**SLIDING, "layer_types": ["sliding_attention", "full_attention"] * 2}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
LATENT = {
    **PLAIN,
    "num_key_value_heads": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 16,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 8,
    "kv_lora_rank": 8,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}
FALCON = {**{k: v for k, v in PLAIN.items() if k != "intermediate_size"}, "ffn_hidden_size": 96}
CHUNKED = {
    **HEADS,
    "intermediate_size_mlp": 48,
    "num_local_experts": 2,
    "attention_chunk_size": WINDOW,
    "layer_types": ["chunked_attention", "full_attention"] * 2,
}
DELTA = {
    **HEADS,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"] * 2,
}
STATES = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 16}
PER_LAYER = {
    **HEADS,
    **MIXED,
    "global_head_dim": 8,
    "vocab_size_per_layer_input": 260,
    "hidden_size_per_layer_input": 4,
}


@dataclass(frozen=True)
class Family:
    """One layout of a decoder.

    Attributes:
        kind: Its `model_type`.
        options: Of its config.
        about: What is special about it, for the page.
        bends: The norm between MLP and residual stream, where there is one.
        loud: Added to that norm's weights, which bound what one block of a random model can say.
    """

    kind: str
    options: dict[str, Any]
    about: str
    bends: str = ""
    loud: float = 0.0


AFTER = "post_feedforward_layernorm"
FAMILIES: dict[str, Family] = {
    "Llama": Family("llama", GROUPED, "full attention"),
    "Mistral": Family("mistral", {**GROUPED, **SLIDING}, "a window in every block"),
    "Mistral, wide": Family("mistral", {**GROUPED, "sliding_window": 4096}, "a window wider than the texts"),
    "Qwen2": Family(
        "qwen2", {**GROUPED, **SLIDING, "use_sliding_window": True, "max_window_layers": 2}, "windows in some blocks"
    ),
    "Qwen3": Family("qwen3", HEADS, "full attention, norms of queries and keys"),
    "Qwen3.5": Family("qwen3_5_text", DELTA, "linear and full attention by turns"),
    "Gemma": Family("gemma", HEADS, "full attention"),
    "Gemma 2": Family("gemma2", {**HEADS, **SLIDING, "query_pre_attn_scalar": 8}, "windows by turns, norm", AFTER, 2.0),
    "Gemma 3": Family(
        "gemma3_text", {**HEADS, **MIXED, "query_pre_attn_scalar": 8}, "windows by turns, norm", AFTER, 1.0
    ),
    "Gemma 4": Family("gemma4_text", {**PER_LAYER, "num_kv_shared_layers": 0}, "windows by turns, norm", AFTER, 1.0),
    "Phi": Family("phi", {**PLAIN, "partial_rotary_factor": 0.5}, "parallel block, partial rotary"),
    "Phi-3": Family("phi3", {**GROUPED, **SLIDING}, "a window in every block, fused input maps"),
    "GPT-2": Family("gpt2", OLD, "learnt positions"),
    "GPT-Neo": Family(
        "gpt_neo",
        {
            "hidden_size": 32,
            "num_layers": 4,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 2]],
            "window_size": WINDOW,
            "max_position_embeddings": 256,
        },
        "windows by turns, kept in its attention",
    ),
    "GPT-J": Family("gptj", {**OLD, "rotary_dim": 4}, "parallel block, partial rotary"),
    "GPT-NeoX": Family("gpt_neox", {**PLAIN, "rotary_pct": 0.25}, "parallel block, partial rotary"),
    "GPTBigCode": Family("gpt_bigcode", OLD, "one head of keys for all"),
    "Falcon": Family("falcon", FALCON, "parallel block, one head of keys for all"),
    "Falcon, new": Family(
        "falcon", {**FALCON, "new_decoder_architecture": True, "num_kv_heads": 2}, "parallel block, two norms"
    ),
    "Falcon, alibi": Family(
        "falcon", {**FALCON, "alibi": True, "parallel_attn": False, "multi_query": False}, "positions by alibi"
    ),
    "Falcon-H1": Family("falcon_h1", {**HEADS, **STATES}, "state space beside attention"),
    "StableLM": Family("stablelm", {**GROUPED, "use_parallel_residual": True}, "parallel block, partial rotary"),
    "Cohere": Family("cohere", {**GROUPED, "logit_scale": 0.25}, "parallel block"),
    "Cohere 2": Family("cohere2", {**HEADS, **MIXED, "logit_scale": 0.25}, "parallel block, windows by turns"),
    "OLMo": Family("olmo", GROUPED, "norms without weights"),
    "OLMo 2": Family("olmo2", GROUPED, "norm", bends=AFTER),
    "OLMo 3": Family("olmo3", {**GROUPED, **MIXED}, "windows by turns, norm", AFTER),
    "MPT": Family("mpt", {"d_model": 32, "n_heads": 4, "n_layers": 4, "max_seq_len": 256}, "positions by alibi"),
    "BLOOM": Family("bloom", {"hidden_size": 32, "n_layer": 4, "n_head": 4}, "positions by alibi"),
    "Granite": Family(
        "granite",
        {**GROUPED, "residual_multiplier": 0.5, "embedding_multiplier": 3.0, "logits_scaling": 2.0},
        "adds half of what its MLP says",
    ),
    "SmolLM3": Family("smollm3", {**GROUPED, **MIXED, "no_rope_layers": [1, 0, 1, 0]}, "windows, some without rotary"),
    "StarCoder2": Family("starcoder2", {**GROUPED, **SLIDING}, "a window in every block"),
    "GLM": Family("glm", HEADS, "partial rotary, fused input maps"),
    "GLM-4": Family("glm4", HEADS, "partial rotary, norm", "post_mlp_layernorm", 1.0),
    "Nemotron": Family("nemotron", {**GROUPED, "partial_rotary_factor": 0.5}, "partial rotary, no gate"),
    "XGLM": Family(
        "xglm",
        {"d_model": 32, "num_layers": 4, "attention_heads": 4, "ffn_dim": 64, "max_position_embeddings": 256},
        "maps that belong to the block itself",
    ),
    "LFM2": Family(
        "lfm2",
        {**GROUPED, "block_auto_adjust_ff_dim": False, "layer_types": ["conv", "full_attention"] * 2},
        "convolutions and attention by turns",
    ),
    "Llama 4, dense": Family("llama4_text", {**CHUNKED, "moe_layers": []}, "chunks by turns"),
    "DeepSeek-V3, dense": Family("deepseek_v3", {**LATENT, "first_k_dense_replace": 4}, "latent attention"),
    "Mamba": Family("mamba", {"hidden_size": 32, "num_hidden_layers": 4}, "state space"),
    "OPT": Family(
        "opt",
        {**{k: v for k, v in PLAIN.items() if k != "intermediate_size"}, "ffn_dim": 128, "word_embed_proj_dim": 32},
        "its MLP sees no rows",
    ),
    "Gemma 4, shared": Family("gemma4_text", {**PER_LAYER, "num_kv_shared_layers": 2}, "blocks share keys and values"),
    "Mixtral": Family("mixtral", {**GROUPED, "num_local_experts": 2}, "experts"),
    "Qwen2-MoE": Family(
        "qwen2_moe", {**GROUPED, **EXPERTS, "shared_expert_intermediate_size": 48}, "experts, a shared one"
    ),
    "Qwen3-MoE": Family("qwen3_moe", {**GROUPED, **EXPERTS}, "experts"),
    "OLMoE": Family("olmoe", {**GROUPED, **EXPERTS}, "experts"),
    "DeepSeek-V3": Family("deepseek_v3", {**LATENT, "first_k_dense_replace": 1}, "experts, a shared one"),
    "GPT-OSS": Family("gpt_oss", {**HEADS, **MIXED, "num_local_experts": 4, "num_experts_per_tok": 2}, "experts"),
    "Granite-MoE": Family("granitemoe", {**GROUPED, "num_local_experts": 4}, "experts"),
    "Llama 4": Family("llama4_text", CHUNKED, "experts, a shared one"),
}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Every byte is a token, and so is the answer behind its space; `<s>` stands in front of texts."""
    pieces = ["<s>", "</s>", "<pad>", *sorted(pre_tokenizers.ByteLevel.alphabet()), f"Ġ{ANSWER}"]
    raw = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[("Ġ", ANSWER)]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", pad_token="<pad>")


def build(name: str) -> PreTrainedModel:
    """A family's model; biases and norms, which are born as 0 and 1, are random too."""
    family = FAMILIES[name]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family.kind](**{**COMMON, **family.options})).eval()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key.endswith("bias"):
                parameter.normal_(std=0.1)
            elif "norm" in key and parameter.dim() == 1:
                parameter += torch.empty_like(parameter).normal_(std=0.1)
                if family.bends and f".{family.bends}." in key:
                    parameter += family.loud
    return model


def make_base(name: str) -> Base:
    """The same with its tokenizer, frozen."""
    return wrap_base(build(name), make_tokenizer(), f"tiny:{name}", LocalRuntime("cpu"))
