"""Texts that are put before a prompt, so that its key is not that of one sentence only. Sampled from the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from elder.runtime import Runtime, told_by_first
from elder.tokens import decode, encode_prompt, pad_id

BARE = "{}"
SEEDS = ("The", "Therefore", "Because", "I", "You")
TOP_K = 5


@dataclass(frozen=True)
class Contexts:
    """Context texts with one `{}` each, in groups that count equally.

    Attributes:
        groups: The bare prompt, and sampled texts; a key is the mean over groups of the mean within each.
    """

    groups: tuple[tuple[str, ...], ...]

    @property
    def texts(self) -> tuple[str, ...]:
        """All of them, the bare prompt first."""
        return tuple(text for group in self.groups for text in group)

    @property
    def weights(self) -> tuple[float, ...]:
        """Weight of each text in a key; they add up to 1."""
        return tuple(1 / (len(self.groups) * len(group)) for group in self.groups for _ in group)


def sample_contexts(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    runtime: Runtime,
    seed: int,
    starts: Sequence[str] = SEEDS,
    tokens: int = 10,
    grouped: bool = True,
) -> Contexts:
    """Let the unedited model write short texts, with a separate random generator.

    Rank 0's texts count: where processors differ, the last bits of a logit may draw another token. The others run as
    many forwards, whatever they draw.

    MEMIT (section 4.2 and its code): five texts of ten tokens; the bare prompt counts as much as all of them.
    Collective under sharding.

    Args:
        model: The unedited model.
        tokenizer: Its tokenizer.
        runtime: Where it lives.
        seed: Recorded with the run; equal seeds give equal texts.
        starts: The words that the texts begin with; with an empty one the model chooses the first word.
        tokens: Length of a text with its start.
        grouped: Weigh the bare prompt like all texts together (MEMIT) or like one of them (ROME).
    """
    generator = torch.Generator().manual_seed(seed)
    texts = []
    for start in starts:
        ids = encode_prompt(tokenizer, start)
        while len(ids) < tokens:
            texts_ids = torch.tensor([ids], device=runtime.device)
            with torch.no_grad():
                logits = model(input_ids=texts_ids, use_cache=False).logits[0, -1].float().cpu()
            best = logits.topk(TOP_K)
            pick = torch.multinomial(best.values.softmax(0), 1, generator=generator)
            ids.append(int(best.indices[pick]))
        text = decode(tokenizer, [i for i in ids if i != pad_id(tokenizer)])
        texts.append(" ".join(text.replace("{", " ").replace("}", " ").split()) + ". {}")
    texts = told_by_first(lambda: texts, runtime)
    if not grouped:
        return Contexts(((BARE, *texts),))
    return Contexts(((BARE,), tuple(texts)) if texts else ((BARE,),))
