"""Facts as rows for meta-training: the edit prompt, one of its rephrases, an unrelated prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from elder.edit import Edit, Probe
from elder.mixture.samples import Row, encode_rows
from elder.tokens import Texts, encode_prompt, format_of


@dataclass(frozen=True)
class BlockRows:
    """One row of each kind for every fact of a block, in order, in each form in which edits are trained.

    Unrelated rows may have an empty answer.
    """

    edits: list[Row]
    equivalents: list[Row]
    unrelated: list[Row]


def block_rows(
    texts: Texts,
    edits: Sequence[Edit],
    terminator: str,
    generator: torch.Generator | None,
    own_prompt: bool = False,
) -> BlockRows:
    """The rows of a block; with a generator rephrases and probes are drawn, else the first held-out ones are taken.

    With `own_prompt` a prompt is drawn like one of its rephrases.
    """
    rows = BlockRows([], [], [])
    for owner, edit in enumerate(edits):
        rephrases, probes = edit.rephrases, edit.locality
        if own_prompt:
            rephrases = (*rephrases, edit.prompt)
        if generator is None:
            rephrase, probe = (edit.heldout_rephrases or rephrases)[0], probes[0]
        else:
            rephrase, probe = rephrases[_draw(len(rephrases), generator)], probes[_draw(len(probes), generator)]
        rows.edits.extend(encode_rows(texts, (edit.prompt,), edit.target, owner, terminator))
        rows.equivalents.extend(encode_rows(texts, (rephrase,), edit.target, owner, terminator))
        rows.unrelated.extend(_probe_rows(texts, probe, owner))
    return rows


def _probe_rows(texts: Texts, probe: Probe, owner: int) -> list[Row]:
    if probe.answer:
        return encode_rows(texts, (probe.prompt,), probe.answer, owner, "none")
    return [Row(tuple(encode_prompt(form, probe.prompt)), (), owner, "") for form in format_of(texts).forms]


def _draw(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (1,), generator=generator))
