"""Taking the keys of new edits from the states of their training prompts, and calibrating the gate on them.

Part of elder-plus. Collective under sharding: every rank reads its share of the rows and gets the result of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from elder.base import Base
from elder.edit import Edit
from elder.forward.tail import Tail, TailTrainer
from elder.mixture.keys import KeyMemory, ThresholdCalibrator, late_interaction
from elder.mixture.samples import SENTENCES, Row
from elder.mixture.subject import pick_subject, subject_tokens
from elder.runtime import merge_shares, tensors_by_first, told_by_first
from elder.tokens import TextFormat, encode_prompt, pad_id

SAMPLED = 256  # stored edits that new ones are compared with
LEAST_SPREAD = 0.05  # of the size of typical states
FEW = 4  # a first batch of fewer edits is too small to centre keys on

Written = tuple[str, TextFormat]
"""A prompt, and the form in which it is written as ids."""


@dataclass(frozen=True)
class KeyContext:
    """The parts with which keys are made and compared.

    Attributes:
        base: The base model.
        keys: The key memory.
        gates: Calibrators of the thresholds, by name: `subject` and `answer`.
        tails: Runs rows up to the tap.
        known: id, prompt and subject of every edit so far, by number.
    """

    base: Base
    keys: KeyMemory
    gates: Mapping[str, ThresholdCalibrator]
    tails: TailTrainer
    known: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class KeyBatch:
    """Keys of E new edits from J prompts each.

    Attributes:
        subject: (E, J, S, Q), real: (E, J, S), answer: (E, J, Q) as it is stored. The last of the J sources is the bare
            subject.
        tokens: (E, J, T, Q) unit keys of all prompt tokens, prompt: (E, J, T) which are real.
        worded: (E, J) bool, wordings that the user gave (not the prompt repeated after a sentence).
        after: (E,) long, the most tokens that follow the subject in a prompt of the edit; -1 where none contains it.
    """

    subject: Tensor
    real: Tensor
    answer: Tensor
    tokens: Tensor
    prompt: Tensor
    worded: Tensor
    after: Tensor


def extract_keys(
    context: KeyContext, edits: Sequence[Edit], prompts: Sequence[Written], owners: Sequence[int], parts: Sequence[Tail]
) -> KeyBatch:
    """Read the keys of a batch of edits from their prepared rows. Rank 0 makes them for all, since they are stored.

    Args:
        context: Its key memory defines how keys are made; the first batch sets the centres, but where the mean moves:
            there plain sentences set them, whatever the first batch is.
        edits: E edits.
        prompts: The text of every row, and its form.
        owners: The edit of every row, 0 to E-1.
        parts: This rank's prepared rows.
    """
    states, keys, runtime = _gather_states(context, parts, len(prompts)), context.keys, context.base.runtime
    if not len(keys):
        typical = states if len(edits) >= FEW and not keys.moving else _plain_states(context)
        if len(edits) < FEW and not keys.moving:
            typical = states + typical
        keys.subject_center, keys.answer_center, scale = tensors_by_first(
            lambda: _centers(typical, runtime.device), runtime
        )
        keys.answer_scale = scale if keys.moving else keys.answer_scale
    bare = _bare_subjects(context, edits)
    return KeyBatch(*tensors_by_first(lambda: _keys(context, edits, prompts, owners, states, bare), runtime))


def _centers(typical: Sequence[tuple[Tensor, Tensor]], device: torch.device) -> list[Tensor]:
    """Mean states of tokens and of last prompt tokens, (D,) each, and how far the latter are from their mean.

    Where a tokenizer knows no word of these texts, all of them are the same: their size says what is far then.
    """
    lows, lasts = torch.cat([low for low, _ in typical]).float(), torch.stack([last for _, last in typical]).float()
    scale = (lasts - lasts.mean(0)).norm(dim=-1).mean()
    scale = torch.maximum(scale, lasts.norm(dim=-1).mean() * LEAST_SPREAD).clamp(min=torch.finfo(torch.float32).tiny)
    return [lows.mean(0).to(device), lasts.mean(0).to(device), scale.to(device)]


def _keys(
    context: KeyContext,
    edits: Sequence[Edit],
    prompts: Sequence[Written],
    owners: Sequence[int],
    states: Sequence[tuple[Tensor, Tensor]],
    bare: Mapping[int, tuple[Tensor, int]],
) -> list[Tensor]:
    """The fields of `KeyBatch`, in order, from the states of all rows and of the bare subjects."""
    keys, device = context.keys, context.base.runtime.device
    units = [keys.unit(low.to(device), keys.subject_center) for low, _ in states]
    lasts = [keys.stored_answer(last.to(device)) for _, last in states]
    longest = max(len(u) for u in units)
    shape = (len(edits), keys.sources)
    subject = torch.zeros(*shape, keys.subject_tokens, keys.width, device=device)
    real = torch.zeros(*shape, keys.subject_tokens, dtype=torch.bool, device=device)
    answer = torch.zeros(*shape, keys.width, device=device)
    tokens = torch.zeros(*shape, longest, keys.width, device=device)
    prompt = torch.zeros(*shape, longest, dtype=torch.bool, device=device)
    worded = torch.zeros(*shape, dtype=torch.bool, device=device)
    after = torch.full((len(edits),), -1, device=device)
    filled = [0] * len(edits)
    for (text, form), owner, unit, last in zip(prompts, owners, units, lasts, strict=True):
        j, edit = filled[owner], edits[owner]
        if j == keys.sources - 1:
            continue
        filled[owner] += 1
        background, known = _background(units, owners, owner), edit.subject_place(text)
        if named := subject_tokens(form, text, edit.subject, known):
            after[owner] = max(int(after[owner]), len(unit) - 1 - named[-1])
        places = pick_subject(form, text, edit.subject, unit, background, keys.subject_tokens, known)
        subject[owner, j, : len(places)], real[owner, j, : len(places)] = unit[places], True
        answer[owner, j], tokens[owner, j, : len(unit)], prompt[owner, j, : len(unit)] = last, unit, True
        worded[owner, j] = text in edit.training_prompts
    for owner, (low, begin) in bare.items():
        own = keys.unit(low.to(device), keys.subject_center)[begin:][-keys.subject_tokens :]
        subject[owner, -1, : len(own)], real[owner, -1, : len(own)] = own, True
    for owner, count in enumerate(filled):  # sources that an edit lacks repeat its first one
        answer[owner, count:] = answer[owner, 0]
    return [subject, real, answer, tokens, prompt, worded, after]


def calibrate(context: KeyContext, edits: Sequence[Edit], seen: KeyBatch, first: int) -> None:
    """Let the gate observe how alike the wordings of one edit are, and how alike different edits are.

    A rephrase of an edit (or its prompt after a sentence, where it has no rephrase for training) is compared with
    the edit's other sources (wanted), and with other edits (unwanted): those of the batch and a sample of the stored
    ones. For subjects the nearest other edit with another subject counts, for answers a spread of others. Rank 0
    compares for all, since thresholds are stored. Collective.
    """

    def samples() -> dict[str, tuple[list[float], list[float], list[int]]]:
        _compare(context, edits, seen, first)
        return {name: (gate.wanted, gate.unwanted, gate.observed) for name, gate in context.gates.items()}

    for name, (wanted, unwanted, observed) in told_by_first(samples, context.base.runtime).items():
        gate = context.gates[name]
        gate.wanted, gate.unwanted, gate.observed = wanted, unwanted, observed


def _compare(context: KeyContext, edits: Sequence[Edit], seen: KeyBatch, first: int) -> None:
    """See `calibrate`."""
    others = _sample(context, len(edits), first)
    names = [context.known[i]["subject"] for i in others.tolist()]
    keys, questions = context.keys, context.keys.as_units(seen.answer)
    stored_subject, stored_real = keys.subject[others], keys.real[others]
    stored_answer = keys.as_units(keys.answer[others])
    for i, edit in enumerate(edits):
        given = seen.worded[i].nonzero()[:, 0].tolist()
        usable = seen.real[i].any(-1).nonzero()[:, 0].tolist()
        asked = seen.prompt[i].any(-1).nonzero()[:, 0].tolist()
        queries = [j for j in (given if len(given) > 1 else asked) if j] or asked
        foreign = [
            k
            for k, (name, other) in enumerate(zip(names, others.tolist(), strict=True))
            if other != first + i
            and (name is None or name != edit.subject)
            and context.known[other]["prompt"] is not None  # not an edit that was replaced
        ]
        for j in queries:
            tokens, prompt, last = seen.tokens[i, j][None], seen.prompt[i, j][None], questions[i, j]
            rest = [r for r in usable if r != j]
            if rest:
                same = late_interaction(tokens, prompt, seen.subject[i, rest][None], seen.real[i, rest][None])
                context.gates["subject"].observe([float(same)], [])
                context.gates["answer"].observe([float((questions[i, rest] @ last).max())], [])
            if foreign:
                far = late_interaction(tokens, prompt, stored_subject[foreign], stored_real[foreign])
                context.gates["subject"].observe([], [float(far.max())])
                spread = (stored_answer[foreign] @ last).amax(-1)
                context.gates["answer"].observe([], spread[:: max(1, len(spread) // 8)].tolist())


def _gather_states(context: KeyContext, parts: Sequence[Tail], count: int) -> list[tuple[Tensor, Tensor]]:
    """For every row of all ranks: states of its prompt's tokens (T, D), and at the last prompt token (D,)."""
    mine = []
    for part in parts:
        rows = part.rows
        for b in range(int(rows.weights.sum())):
            end = int(rows.key_positions[b]) + 1
            begin = int(rows.attention_mask[b].argmax())
            mine.append((part.low[b, begin:end].cpu(), part.last[b].cpu()))
    return merge_shares(context.base.runtime.gather_objects(mine))[:count]


def _plain_states(context: KeyContext) -> list[tuple[Tensor, Tensor]]:
    """States of unrelated sentences: centred on one edit alone, its own keys would be next to nothing."""
    tokenizer = context.base.tokenizer
    rows = [Row(tuple(encode_prompt(tokenizer, text)), (pad_id(tokenizer),), 0, "") for text in SENTENCES]
    return _gather_states(context, context.tails.prepare(rows), len(rows))


def _bare_subjects(context: KeyContext, edits: Sequence[Edit]) -> dict[int, tuple[Tensor, int]]:
    """States of the subjects at the beginning of a text, where their first token often differs.

    Returns:
        For each edit with a subject, by number: (S, D), and where it begins after a begin-of-text token.
    """
    tokenizer = context.base.tokenizer
    named = [i for i, edit in enumerate(edits) if edit.subject]
    if not named:
        return {}
    rows = [Row(tuple(encode_prompt(tokenizer, str(edits[i].subject))), (pad_id(tokenizer),), 0, "") for i in named]
    states = _gather_states(context, context.tails.prepare(rows), len(rows))
    skip = [int(len(row.prompt) > 1 and row.prompt[0] == tokenizer.bos_token_id) for row in rows]
    return {i: (low, begin) for i, (low, _), begin in zip(named, states, skip, strict=True)}


def _background(units: Sequence[Tensor], owners: Sequence[int], owner: int) -> Tensor:
    """Token keys of the other edits' rows."""
    other = [u for u, o in zip(units, owners, strict=True) if o != owner]
    return torch.cat(other) if other else units[0][:0]


def _sample(context: KeyContext, fresh: int, first: int) -> Tensor:
    """Numbers of the batch's own edits and of at most `SAMPLED` earlier ones, spread evenly."""
    own = torch.arange(first, first + fresh)
    if not first:
        return own
    return torch.cat([torch.unique(torch.linspace(0, first - 1, min(SAMPLED, first)).round().long()), own])
