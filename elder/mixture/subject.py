"""The tokens of a prompt that name its subject: by the given text, or, without one, the most distinctive ones.

Knows the tokenizer, and states of tokens as plain tensors; nothing of editing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from elder.tokens import encode_prompt


def subject_tokens(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str | None) -> list[int]:
    """Indices, in the encoded prompt, of the tokens that overlap the subject's last occurrence; empty if there is none.

    Uses the tokenizer's character offsets; slow tokenizers, which have none, are searched by growing prefixes.
    """
    begin = prompt.rfind(subject) if subject else -1
    if begin < 0 or not subject:
        return []
    end = begin + len(subject)
    if tokenizer.is_fast:
        offsets = tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
        count = len(encode_prompt(tokenizer, prompt))
        return [i for i, (a, b) in enumerate(offsets[:count]) if a < end and b > begin and b > a]
    ids = encode_prompt(tokenizer, prompt[:end])
    before = prompt[:begin].rstrip()
    head = len(encode_prompt(tokenizer, before)) if before else int(ids[0] == tokenizer.bos_token_id)
    return list(range(head, len(ids)))


def distinctive_tokens(states: Tensor, background: Tensor, count: int) -> list[int]:
    """The tokens that are least like the background, in order of place.

    Args:
        states: (T, Q) unit keys of a prompt's tokens, the first one (begin of text) included.
        background: (M, Q) unit keys of tokens of other texts.
        count: How many to choose at most.
    """
    if not len(background) or len(states) <= 1:
        return list(range(len(states)))[-count:]
    familiar = (states @ background.T).amax(dim=1)
    familiar[0] = torch.inf  # begin of text, or a first token without context
    return sorted(familiar.topk(min(count, len(states) - 1), largest=False).indices.tolist())


def pick_subject(
    tokenizer: PreTrainedTokenizerBase,
    prompt: str,
    subject: str | None,
    states: Tensor,
    background: Tensor,
    limit: int,
) -> list[int]:
    """The subject's last `limit` tokens if it is in the prompt, else the three most distinctive tokens."""
    found: Sequence[int] = subject_tokens(tokenizer, prompt, subject)
    return list(found)[-limit:] if found else distinctive_tokens(states, background, min(3, limit))
