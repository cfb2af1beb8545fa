"""Chat templates as models have them, a tokenizer of bytes that has one, and a tiny model for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TURNS = "{% for m in messages %}"
TEMPLATES: Mapping[str, str] = MappingProxyType(
    {
        # ends in a newline after the assistant's header
        "ChatML": TURNS + "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
        # begins with BOS, cuts white space off the words
        "Llama 3": "{{ bos_token }}" + TURNS + "<|start|>{{ m.role }}<|stop|>\n\n{{ m.content | trim }}<|im_end|>"
        "{% endfor %}{% if add_generation_prompt %}<|start|>assistant<|stop|>\n\n{% endif %}",
        # knows no system message
        "Gemma": "{{ bos_token }}{% if messages[0].role == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}"
        + TURNS
        + "<|start|>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>model\n{% endif %}",
        # has a space before each answer, and no header of its own
        "Mistral": "{{ bos_token }}" + TURNS + "{% if m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% else %}"
        "[INST] {{ m.content }} [/INST]{% endif %}{% endfor %}",
        # puts an empty thought before each answer
        "thinking": TURNS + "<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}"
        "{{ m.content }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    }
)
"""Name -> template. Words of the user stand in the same place in all of them; their signs are tokens."""

SIGNS = ("<|im_start|>", "<|im_end|>", "<|start|>", "<|stop|>", "<think>", "</think>", "[INST]", "[/INST]")
SIZE = 272  # tokens, a few of them unused


def chat_tokenizer(template: str | None, bos: bool = True) -> PreTrainedTokenizerFast:
    """Every byte is a token, and so is each of the signs; `<s>` stands in front of texts (if `bos`)."""
    pieces = ["<s>", "</s>", "<pad>", *SIGNS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    raw = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    if bos:
        raw.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        additional_special_tokens=list(SIGNS),
    )
    tokenizer.chat_template = template
    return tokenizer


def chat_model(seed: int = 0, ends: Sequence[int] | int | None = None) -> LlamaForCausalLM:
    """A tiny random model for that tokenizer; its generation stops at `ends`."""
    torch.manual_seed(seed)
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 4, "max_position_embeddings": 256}
    special = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.25}
    config = LlamaConfig(vocab_size=SIZE, hidden_size=32, intermediate_size=48, **heads, **special)
    model = LlamaForCausalLM(config).eval()
    if ends is not None:
        model.generation_config.eos_token_id = ends
    return model
