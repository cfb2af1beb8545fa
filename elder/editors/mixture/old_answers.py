"""What the base model says where an edit says something new.

Part of elder-plus. Collective under sharding: every rank runs the same prompts, and rank 0 tells the result.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from elder.base import Base
from elder.edit import Edit
from elder.mixture.answers import UNKNOWN
from elder.runtime import told_by_first
from elder.tokens import encode_prompt, encode_target, pad_id, pad_left

SURE = -1.0  # nats: an answer that no data set names counts as known if the base is as sure of it in every wording


@torch.no_grad()
def old_answers(
    base: Base, model: nn.Module, edits: Sequence[Edit], least: float, micro_batch: int
) -> tuple[list[int], list[Tensor]]:
    """The first token of each edit's old answer, and what the base says after its prompts.

    The old answer is the edit's own (`Edit.ground_truth`), if the base knows it: gives it, in every wording that the
    edit is trained on, at least half of `least`, so that wordings which nobody gave have room below. Else it is what
    the base is sure of in all of them.

    Args:
        base: The base model.
        model: A clone of it on which no edit is active.
        edits: E edits.
        least: The log-probability from which on the base agrees later, in nats.
        micro_batch: Prompts a pass; 0: all.

    Returns:
        For each edit the token, `UNKNOWN` where the base knows no answer; and the log-probabilities after the J
        wordings that train it, (J, V), as this rank computed them.
    """
    ids = [encode_prompt(base.texts, text) for edit in edits for text in edit.training_prompts]
    step = micro_batch or len(ids)
    said = torch.cat([_said(base, model, ids[at : at + step]) for at in range(0, len(ids), step)])

    each = list(torch.split(said, [len(edit.training_prompts) for edit in edits]))

    def found() -> list[int]:
        return [_old(base, edit, own, least) for edit, own in zip(edits, each, strict=True)]

    return told_by_first(found, base.runtime), each


def _said(base: Base, model: nn.Module, prompts: Sequence[Sequence[int]]) -> Tensor:
    """(B, V) log-probabilities of the next token."""
    ids, mask, positions = pad_left(prompts, pad_id(base.tokenizer), base.runtime.device)
    inputs = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
    logits: Tensor = model(**inputs, use_cache=False, logits_to_keep=1).logits
    return logits[:, -1].float().log_softmax(-1).cpu()


def _old(base: Base, edit: Edit, said: Tensor, least: float) -> int:
    """From the log-probabilities after each wording, (J, V)."""
    if edit.ground_truth:
        token = encode_target(base.texts, edit.prompt, edit.ground_truth)[0]
        if float(said[:, token].min()) >= least / 2:
            return token
    token = int(said[0].argmax())
    return token if float(said[:, token].min()) >= SURE else UNKNOWN
