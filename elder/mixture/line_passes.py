"""Passes of continuous batching: the requests in one line of tokens are its rows.

A prompt may come in pieces, between the tokens that other requests generate; it is routed with its last piece.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from elder.errors import ModelError
from elder.mixture.deferral import Prompts
from elder.mixture.paged import Line, Request, keep
from elder.mixture.pass_info import Pass
from elder.mixture.route import Routes, plan_of


def begin_line(run: Pass, line: Line) -> Pass:
    """Prepare a pass of continuous batching.

    Raises:
        ModelError: A prompt that has to be corrected as a whole comes in pieces.
    """
    assert run.tokens is not None
    device = run.tokens.device
    nowhere = Routes.none(1, *run.version.shape, device)
    known = [nowhere if one is None or one.routes is None else one.routes for one in line.known]
    run.routes = Routes.joined(known)
    ended = [one is not None and one.routes is not None for one in line.known]
    run.deciding = tuple(r for r, final in enumerate(line.final) if final and not ended[r])
    if run.version.deferral.whole and any(
        not ended[r] and (line.past[r] or not line.final[r]) for r in range(len(ended))
    ):
        raise ModelError(
            "continuous batching split a prompt, and this method corrects whole prompts: raise max_batch_tokens "
            "of the ContinuousBatchingConfig above the tokens of all prompts that wait together"
        )
    run.due = bool(run.deciding)
    if not run.due:
        run.plan = plan_of(run.routes, line.spans, run.tokens.shape[1])
    return run


def decide_line(run: Pass, line: Line, states: Tensor) -> None:
    """Route the requests whose prompts end in this pass, from the tap's input (1, T, Q)."""
    assert run.routes is not None
    deferral, device = run.version.deferral, states.device
    ends = [line.spans[r].begin + line.spans[r].length - 1 for r in run.deciding]
    if len(deferral):
        last = states[0, torch.tensor(ends, device=device)]
        low, real = _low_of(run, line, [_seen_of(run, line, r) for r in run.deciding], device)
        rows = torch.tensor(run.deciding, device=device)
        run.routes = run.routes.put(rows, deferral.decide(Prompts(last, low, real)))
    spans = list(line.spans)
    for r in run.deciding:
        spans[r] = replace(spans[r], start=0 if deferral.whole else spans[r].length - 1)
    run.plan = plan_of(run.routes, spans, states.shape[1])


def _seen_of(run: Pass, line: Line, row: int) -> Tensor | None:
    """(P, D) states of a request's tokens so far, where subject keys are taken."""
    if run.low is None:
        return None
    span, known = line.spans[row], line.known[row]
    here = run.low[0, span.begin : span.begin + span.length]
    return here if known is None or known.low is None else torch.cat([known.low[0], here])


def _low_of(run: Pass, line: Line, seen: Sequence[Tensor | None], device: torch.device) -> tuple[Tensor | None, Tensor]:
    """States of the deciding requests side by side, (R, P, D), and which of them are there, (R, P)."""
    lengths = [
        line.past[r] + line.spans[r].length if s is None else len(s) for r, s in zip(run.deciding, seen, strict=True)
    ]
    real = torch.arange(max(lengths), device=device)[None] < torch.tensor(lengths, device=device)[:, None]
    parts = [one for one in seen if one is not None]
    return (pad_sequence(parts, batch_first=True) if parts else None), real


def note_line(run: Pass, line: Line, owner: str) -> None:
    """Keep what has been decided about each request of a pass, for those edits that decided it."""
    assert run.routes is not None
    requests = []
    for row, known in enumerate(line.known):
        ended = line.final[row] or (known is not None and known.routes is not None)
        if ended:
            requests.append(Request(run.routes.at(torch.tensor([row], device=run.routes.inside.device)), None))
        else:
            seen = _seen_of(run, line, row)
            requests.append(Request(None, None if seen is None else seen[None]))
    keep(line, owner, requests)
