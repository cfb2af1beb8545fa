"""A push towards the rest of an answer that has been begun.

In a wording that was never trained, the maps may give the first token of a new answer and then go on as the old model
would. So while a row is in scope and its text since the prompt is a beginning of the edit's answer, the logit of the
answer's next token is raised. The push is over when the answer is complete or the text is another one. Knows how the
logits of a pass lie, and nothing of how rows are routed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from elder.mixture.answers import AnswerBias
from elder.mixture.pass_info import Line, Pass

Embed = Callable[[Tensor], Tensor]
Place = tuple[int, int, int]
"""Row, column among the new tokens of the pass, and id of the token whose logit is raised there."""


def leaning(run: Pass, logits: Tensor, embed: Embed) -> Tensor:
    """The logits of a pass with the push in them; the same tensor where there is none.

    Args:
        run: A pass whose rows are routed.
        logits: (B, K, V) as the model's head gave them, of the columns that the caller keeps.
        embed: The token embeddings of the model.
    """
    bias = run.version.deferral.bias
    if bias is None or run.fixed or run.routes is None or run.tokens is None or logits.dim() != 3:
        return logits
    places = list(_of_requests(run, run.line, bias) if run.line is not None else _of_rows(run, bias, embed))
    kept = [
        (row, column, token) for row, at, token in places if (column := _kept(run, at, logits.shape[1])) is not None
    ]
    if not kept:
        return logits
    rows, columns, tokens = torch.tensor(kept, device=logits.device).unbind(1)
    pushed = logits.clone()
    pushed[rows, columns, tokens] += bias.size
    return pushed


def _of_rows(run: Pass, bias: AnswerBias, embed: Embed) -> Iterator[Place]:
    """Of the rows of a batch."""
    assert run.routes is not None
    assert run.tokens is not None
    record = None if run.deciding else run.record  # a new route may begin a new answer
    if record is not None and record.complete:
        return
    going = False
    ends, owners, inside = run.ended().tolist(), run.routes.owner.tolist(), run.routes.inside.tolist()
    for row in (r for r, flag in enumerate(inside) if flag and owners[r] >= 0):
        begin = max(0, ends[row])
        new = _new(run, row, begin, first=ends[row] >= 0)
        last = -1
        for place, ids in bias.along(owners[row], _said(run, row, ends[row], bias.answers[owners[row]], embed), new):
            last = begin + place
            yield from ((row, last, token) for token in ids)
        going |= last >= 0 and all(token is None for token in new[last + 1 - begin :])
    if record is not None and not going:
        record.complete = True


def _new(run: Pass, row: int, begin: int, first: bool) -> list[int | None]:
    """The new tokens of a row from a column on, as `AnswerBias.along` takes them."""
    assert run.tokens is not None
    width = run.tokens.shape[1] - begin
    if run.tokens.is_floating_point():  # nobody knows what they say
        return [-1] if first else []
    ids: list[int | None] = run.tokens[row, begin:].tolist()
    real = [True] * width if run.real is None else run.real[row, begin:].tolist()
    made = [token if there else None for token, there in zip(ids, real, strict=True)]
    return [-1, *made[1:]] if first else made


def _said(run: Pass, row: int, end: int, forms: Sequence[Sequence[int]], embed: Embed) -> list[int]:
    """The cached text of a row since its prompt, which ended `-end` columns ago.

    Where the cache has embeddings, only a beginning of one of the answer's `forms` is known by them; [-1] is none.
    """
    if end >= -1:
        return []
    assert run.record is not None
    piece, begin = run.record.content(0), run.past + end + 1
    said = piece.tokens[row, begin:][piece.mask()[row, begin:]]
    if not said.is_floating_point():
        ids: list[int] = said.tolist()
        return ids
    for form in forms:
        first = list(form[: len(said)])
        if len(first) == len(said) and torch.equal(embed(torch.tensor(first, device=said.device)), said):
            return first
    return [-1]


def _of_requests(run: Pass, line: Line, bias: AnswerBias) -> Iterator[Place]:
    """Of the requests of a pass of continuous batching, which lie in one row."""
    assert run.routes is not None
    assert run.tokens is not None
    owners, inside = run.routes.owner.tolist(), run.routes.inside.tolist()
    for r, (span, known) in enumerate(zip(line.spans, line.known, strict=True)):
        if not inside[r] or owners[r] < 0:
            continue
        fresh = r in run.deciding
        begin = span.begin + span.length - 1 if fresh else span.begin
        new = [-1] if fresh else run.tokens[0, begin : begin + span.length].tolist()
        for place, ids in bias.along(owners[r], () if fresh or known is None else known.said, new):
            yield from ((0, begin + place, token) for token in ids)


def said_since(run: Pass, line: Line, row: int) -> tuple[int, ...]:
    """What a request has said since its prompt, this pass included, as far as answers are long."""
    bias, known, span = run.version.deferral.bias, line.known[row], line.spans[row]
    if bias is None or row in run.deciding or known is None:
        return ()
    assert run.tokens is not None
    here: list[int] = run.tokens[0, span.begin : span.begin + span.length].tolist()
    return (*known.said, *here)[: bias.longest + 1]


def _kept(run: Pass, column: int, count: int) -> int | None:
    """Where the logits of a column are among the `count` columns that are kept; None: nowhere."""
    assert run.tokens is not None
    length = run.tokens.shape[1]
    keep = run.kwargs.get("logits_to_keep")
    if isinstance(keep, Tensor):
        found = (keep.flatten() % length == column).nonzero()[:, 0].tolist()
        return int(found[0]) if found else None
    place = column - (length - count)
    return place if place >= 0 else None
