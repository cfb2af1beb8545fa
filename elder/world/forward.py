"""The forward pass of a plain Llama, written out for training on a processor.

Works on the parameters of `LlamaForCausalLM` itself. It computes what the model computes (a test compares
them) with a third of the operators: fused norms and projections, rotations by one table, and attention
written out, because the fused kernel is made for long rows and loses on rows of twenty tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import LlamaForCausalLM


class TrainingForward:
    """Hidden states of right-padded rows that begin at position 0.

    Args:
        model: A Llama without biases, with as many key heads as query heads and plain rotary positions.
        length: Longest row that will come, in tokens.
    """

    def __init__(self, model: LlamaForCausalLM, length: int) -> None:
        self.model = model.model
        self.heads = model.config.num_attention_heads
        self.eps = model.config.rms_norm_eps
        positions = torch.arange(length)[None]
        cos, sin = self.model.rotary_emb(self.model.embed_tokens.weight, positions)
        half = cos.shape[-1] // 2
        # Rotating halves is swapping them and negating one: the sign goes into the table.
        self.cos = cos[0]
        self.sin = torch.cat([-sin[0, :, :half], sin[0, :, half:]], -1)
        self.mask = torch.full((length, length), float("-inf")).triu(1)

    def __call__(self, ids: Tensor) -> Tensor:
        """Final hidden states, normed.

        Args:
            ids: (B, T) token ids.

        Returns:
            (B, T, D) states, ready for the output embedding.
        """
        batch, length = ids.shape
        cos, sin, half = self.cos[:length], self.sin[:length], self.cos.shape[-1] // 2
        scale = (2 * half) ** -0.5
        x = self.model.embed_tokens(ids)
        for layer in self.model.layers:
            attention, mlp = layer.self_attn, layer.mlp
            y = F.rms_norm(x, x.shape[-1:], layer.input_layernorm.weight, self.eps)
            weight = torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
            qkv = F.linear(y, weight).view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
            qk = qkv[:2]
            qk = qk * cos + qk.roll(half, -1) * sin
            scores = torch.matmul(qk[0], qk[1].mT) * scale + self.mask[:length, :length]
            y = torch.matmul(scores.softmax(-1), qkv[2])
            x = x + F.linear(y.transpose(1, 2).reshape(batch, length, -1), attention.o_proj.weight)
            y = F.rms_norm(x, x.shape[-1:], layer.post_attention_layernorm.weight, self.eps)
            gate, up = F.linear(y, torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight])).chunk(2, -1)
            x = x + F.linear(F.silu(gate) * up, mlp.down_proj.weight)
        return F.rms_norm(x, x.shape[-1:], self.model.norm.weight, self.eps)
