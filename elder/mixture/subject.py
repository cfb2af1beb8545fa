"""Which tokens of a prompt name its subject: by the given text, or, without one, the most distinctive tokens.

Knows how texts are encoded, and states of tokens as plain tensors; nothing of editing.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from elder.subjects import find_subject
from elder.tokens import Texts, encode_prompt, format_of


def subject_tokens(texts: Texts, prompt: str, subject: str | None, known: int | None = None) -> list[int]:
    """Indices, in the encoded prompt, of the tokens that overlap the subject; empty if it does not stand there.

    Uses the tokenizer's character offsets; slow tokenizers, which have none, are searched by growing prefixes.

    Args:
        texts: How the prompt is encoded.
        prompt: Where to look; a chat template is put around it if `texts` says so.
        subject: See `elder.subjects.find_subject`.
        known: Where it begins in the prompt, if the dataset says so.
    """
    form = format_of(texts)
    found = find_subject(prompt, subject, known)
    if found is None:
        return []
    text, special = form.written(prompt)
    at = _place_of(prompt, text)
    if at is None:  # the template changes the user's words
        found, at = find_subject(text, subject), 0
        if found is None:
            return []
    begin, end = found[0] + at, found[1] + at
    tokenizer = form.tokenizer
    if tokenizer.is_fast:
        offsets = tokenizer(text, add_special_tokens=special, return_offsets_mapping=True)["offset_mapping"]
        count = len(encode_prompt(form, prompt))
        return [i for i, (a, b) in enumerate(offsets[:count]) if a < end and b > begin and b > a]
    ids = _prefix(tokenizer, text[:end], special)
    before = text[:begin].rstrip()
    head = len(_prefix(tokenizer, before, special)) if before else int(ids[0] == tokenizer.bos_token_id)
    return list(range(head, len(ids)))


def _place_of(prompt: str, text: str) -> int | None:
    """Where a prompt begins in the text that is sent for it; templates may cut white space off its ends."""
    if (at := text.rfind(prompt)) >= 0:
        return at
    at = text.rfind(prompt.strip())
    return at - (len(prompt) - len(prompt.lstrip())) if at >= 0 else None


def _prefix(tokenizer: PreTrainedTokenizerBase, text: str, special: bool) -> list[int]:
    return encode_prompt(tokenizer, text) if special else list(tokenizer(text, add_special_tokens=False)["input_ids"])


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
    texts: Texts,
    prompt: str,
    subject: str | None,
    states: Tensor,
    background: Tensor,
    limit: int,
    known: int | None = None,
) -> list[int]:
    """The subject's last `limit` tokens if it stands in the prompt, else the three most distinctive tokens."""
    found: Sequence[int] = subject_tokens(texts, prompt, subject, known)
    return list(found)[-limit:] if found else distinctive_tokens(states, background, min(3, limit))
