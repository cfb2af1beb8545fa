"""Values: changes of a layer's output at the subject's last token that make the model say something else.

Found by descent, batched over edits: each has its own change, Adam and stop; edits that are done leave the batch.
The result is that of one edit at a time. Written once for ROME, MEMIT, EMMET and AlphaEdit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from elder.forward.upper import UpperBlocks, ValueRow, select
from elder.mixture.samples import IGNORED
from elder.runtime import Runtime, merge_shares, rounds, share

BETAS, EPS = (0.9, 0.999), 1e-8


@dataclass(frozen=True)
class ValueOptions:
    """How a value is found (ROME section 3.1, eq. 4; MEMIT section 4.2; steps and factors from their code).

    Attributes:
        steps: Forward passes; the last one only measures.
        lr: Learning rate of Adam.
        kl_factor: Weight of KL(now || before) of what follows the subject in `SUBJECT is a`.
        decay: Weight of ||change|| / ||start||^2.
        clamp: The change is kept within so many times the length of the start.
        stop: An edit is done when its loss is below this.
    """

    steps: int = 25
    lr: float = 0.5
    kl_factor: float = 0.0625
    decay: float = 0.5
    clamp: float = 0.75
    stop: float = 0.05


@dataclass(frozen=True)
class Values:
    """The results for E edits, in order.

    Attributes:
        change: (E, D) float32; float64 on a model in float64.
        steps: Updates that each edit took.
        loss: Total loss of each edit at its last measurement.
        nll: Its negative log likelihood part, in nats per token.
        curve: Mean total loss over edits after each measurement.
    """

    change: Tensor
    steps: tuple[int, ...]
    loss: tuple[float, ...]
    nll: tuple[float, ...]
    curve: tuple[float, ...]


def find_values(
    upper: UpperBlocks,
    rows: Sequence[Sequence[ValueRow]],
    starts: Tensor,
    options: ValueOptions,
    runtime: Runtime,
    group: int = 16,
) -> Values:
    """Optimise the changes of a batch of edits. Collective; edits are dealt to the ranks.

    Args:
        upper: The blocks above the layer whose output changes.
        rows: For each edit its rewriting rows (labels) and rows that must not change (no labels).
        starts: (E, D) the vectors whose length scales decay and clamp.
        options: How.
        runtime: Where the model lives.
        group: Edits in one forward.
    """
    count = len(rows)
    order = sorted(range(count), key=lambda i: _reach(rows[i]))  # edits that run equally long share a forward
    mine = share(order, runtime)
    padded = mine + order[:1] * (rounds(count, runtime) - len(mine))  # every rank runs as many forwards
    groups = [
        _Group(upper, [rows[i] for i in part], starts[part], options, len(mine) - first)
        for first, part in ((f, padded[f : f + group]) for f in range(0, len(padded), group))
    ]
    curve: list[float] = []
    for step in range(options.steps):
        flags = torch.tensor([float(g.busy) for g in groups], device=runtime.device)
        awake = runtime.sum(flags).tolist()
        if not any(awake):
            break
        for one, go in zip(groups, awake, strict=True):
            if go:
                one.step(last=step == options.steps - 1, together=runtime.sharded)
        totals = torch.tensor([float(sum(sum(g.loss[: g.real]) for g in groups)), float(len(mine))])
        total, number = runtime.sum(totals.to(runtime.device)).tolist()
        curve.append(total / number)
    own = [item for g in groups for item in g.results()]
    found = dict(zip(order, merge_shares(runtime.gather_objects(own)), strict=True))
    merged = [found[i] for i in range(count)]
    change = torch.stack([item[0] for item in merged]).to(starts.device)
    steps, loss, nll = (tuple(item[k] for item in merged) for k in (1, 2, 3))
    return Values(change, steps, loss, nll, tuple(curve))


class _Group:
    """Edits that are run together, and how far each has come."""

    def __init__(
        self, upper: UpperBlocks, rows: Sequence[Sequence[ValueRow]], starts: Tensor, options: ValueOptions, real: int
    ) -> None:
        self.upper, self.o, self.real = upper, options, max(0, min(real, len(rows)))
        count, device = len(rows), upper.device
        flat = [replace(row, edit=i) for i, own in enumerate(rows) for row in own]
        self.rows = upper.prepare(flat)
        self.dtype = torch.promote_types(self.rows.hidden.dtype, torch.float32)
        self.length = starts.to(device, self.dtype).norm(dim=1)
        self.change = torch.zeros(count, starts.shape[1], dtype=self.dtype, device=device)
        self.first, self.second = torch.zeros_like(self.change), torch.zeros_like(self.change)
        self.active = torch.arange(count, device=device) < self.real
        self.steps, self.loss, self.nll = [0] * count, [float("nan")] * count, [float("nan")] * count
        self.before: Tensor | None = None  # log-probabilities of the rows that must not change
        self.updates = 0

    @property
    def busy(self) -> bool:
        """Whether one of its edits is not done."""
        return bool(self.active.any())

    def step(self, last: bool, together: bool) -> None:
        """Measure, and unless it is the last time, take one step of Adam for the edits that are not done.

        Args:
            last: Only measure.
            together: The backward pass is collective, so a rank that is done here runs it for the others.
        """
        change = self.change.clone().requires_grad_(self.busy or together)
        with torch.enable_grad():  # whatever the caller has set
            loss, nll = self._losses(change)
        measured, likelihood = loss.detach().tolist(), nll.detach().tolist()
        for i in self.active.nonzero().flatten().tolist():
            self.loss[i], self.nll[i] = measured[i], likelihood[i]
        self.active &= loss.detach() >= self.o.stop
        if last:
            self.active &= False
        if last or not (self.busy or together):
            return
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(loss[self.active].sum(), change)
        if self.busy:
            self._update(gradient)
            self._shrink()

    def results(self) -> list[tuple[Tensor, int, float, float]]:
        """Change, steps, loss and nll of each real edit."""
        return [(self.change[i].cpu(), self.steps[i], self.loss[i], self.nll[i]) for i in range(self.real)]

    def _losses(self, change: Tensor) -> tuple[Tensor, Tensor]:
        """(E,) total loss and its nll part; 0 for edits whose rows have been dropped."""
        rows, count = self.rows, len(self.change)
        log_probs = self.upper.logits(rows, change[rows.edit]).to(self.dtype).log_softmax(-1)
        wanted = rows.labels != IGNORED
        picked = log_probs.gather(2, rows.labels.clamp(min=0)[..., None])[..., 0]
        labelled = wanted.any(1)
        per_row = -(picked * wanted).sum(1) / wanted.sum(1).clamp(min=1)
        nll = _mean_by(per_row[labelled], rows.edit[labelled], count)
        quiet = log_probs[~labelled][:, 0]
        if self.before is None:
            self.before = quiet.detach()
        kl = _mean_by((quiet.exp() * (quiet - self.before)).sum(-1), rows.edit[~labelled], count)
        # The norm has no gradient at 0, where all edits start; there the decay has none either.
        norm = change.square().sum(1).clamp(min=1e-30).sqrt()
        decay = self.o.decay * norm / self.length.square()
        return nll + self.o.kl_factor * kl + decay, nll

    def _update(self, gradient: Tensor) -> None:
        self.updates += 1
        rows = self.active
        for i in rows.nonzero().flatten().tolist():
            self.steps[i] += 1
        g = gradient[rows]
        self.first[rows] = BETAS[0] * self.first[rows] + (1 - BETAS[0]) * g
        self.second[rows] = BETAS[1] * self.second[rows] + (1 - BETAS[1]) * g.square()
        mean = self.first[rows] / (1 - BETAS[0] ** self.updates)  # all active edits have taken equally many steps
        spread = self.second[rows] / (1 - BETAS[1] ** self.updates)
        moved = self.change[rows] - self.o.lr * mean / (spread.sqrt() + EPS)
        limit = self.o.clamp * self.length[rows]
        self.change[rows] = moved * (limit / moved.norm(dim=1).clamp(min=1e-30)).clamp(max=1)[:, None]

    def _shrink(self) -> None:
        """Drop the rows of edits that are done, once they are half of all rows."""
        stays = self.active[self.rows.edit]
        if int(stays.sum()) * 2 > len(stays):
            return
        if self.before is not None:
            quiet = ~(self.rows.labels != IGNORED).any(1)
            self.before = self.before[stays[quiet]]
        self.rows = select(self.rows, stays.nonzero().flatten())


def _reach(rows: Sequence[ValueRow]) -> int:
    """Tokens of the longest row from the changed one to the last whose distribution is looked at."""
    return max(max(row.places) - row.at for row in rows)


def _mean_by(values: Tensor, owner: Tensor, count: int) -> Tensor:
    """Mean of the values of each owner, (count,); 0 for those without."""
    total = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, owner, values)
    number = torch.zeros(count, dtype=values.dtype, device=values.device).index_add(0, owner, torch.ones_like(values))
    return total / number.clamp(min=1)
