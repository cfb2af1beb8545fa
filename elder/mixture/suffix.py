"""Training the edited part of a decoder on a frozen prefix that is computed once for each batch of edits.

The blocks below the first edited one do not change while a batch is learnt, so their output is cached and every step
runs the upper blocks only, and the vocabulary projection at answer positions only. Rows are dealt to the ranks of
the runtime; gradients are summed over them. Knows nothing of routing rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from elder.mixture.partial import PartialForward
from elder.mixture.route import Route, RoutingClock
from elder.mixture.samples import IGNORED, Row, RowBatch, collate
from elder.runtime import Runtime, rounds, share

CHECK_EVERY = 10  # steps between two questions whether a batch is learnt


@dataclass(frozen=True)
class Prepared:
    """One micro-batch ready for training.

    Attributes:
        rows: The padded rows.
        hidden: (B, T, D) input of the first edited block.
        tapped: (B, T, Q) what the routing tap saw.
        index: Which of all rows of the step these are, (B,) in the order given to `prepare`.
    """

    rows: RowBatch
    hidden: Tensor
    tapped: Tensor
    index: tuple[int, ...]


class SuffixTrainer:
    """Computes answer losses of training rows through the upper blocks of one model.

    Args:
        model: The clone whose blocks `partial` controls.
        partial: Lets a range of blocks run alone.
        first: The first edited block.
        tap: Module whose input routes a sequence; it lies below `first`, or is that block itself.
        clock: Holds the route that the mixtures use.
        runtime: Where the model lives.
        pad: Id that fills rows up.
        micro_batch: Rows in one pass.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        partial: PartialForward,
        first: int,
        tap: nn.Module,
        clock: RoutingClock,
        runtime: Runtime,
        pad: int,
        micro_batch: int,
    ) -> None:
        self.model, self.partial, self.first = model, partial, first
        self.clock, self.runtime, self.pad, self.micro_batch = clock, runtime, pad, micro_batch
        self._tapped: Tensor | None = None
        self._listening = False
        tap.register_forward_pre_hook(self._listen)

    def prepare(self, rows: Sequence[Row]) -> list[Prepared]:
        """Run the frozen prefix for this rank's share of the rows (collective under sharding)."""
        mine = share(list(enumerate(rows)), self.runtime)
        real = len(mine)
        mine += [(0, rows[0])] * (rounds(len(rows), self.runtime) - real)
        prepared = []
        for begin in range(0, len(mine), self.micro_batch):
            part = mine[begin : begin + self.micro_batch]
            batch = collate([row for _, row in part], self.pad, self.runtime.device, max(0, real - begin))
            hidden, tapped = self._prefix(batch)
            prepared.append(Prepared(batch, hidden, tapped, tuple(i for i, _ in part)))
        return prepared

    def answer_losses(self, part: Prepared, route: Route) -> Tensor:
        """Summed cross-entropy of each row's answer under a route, (B,), with gradients to the mixtures."""
        rows = part.rows
        with self.clock.imposing(route), self.partial.only_from(self.first, part.hidden):
            logits = self.model(
                input_ids=rows.input_ids,
                attention_mask=rows.attention_mask,
                position_ids=rows.position_ids,
                use_cache=False,
                logits_to_keep=rows.answer_width + 1,
            ).logits[:, :-1]
        loss = F.cross_entropy(
            logits.float().transpose(1, 2), rows.labels, ignore_index=IGNORED, reduction="none"
        )
        return loss.sum(dim=1)

    def _prefix(self, batch: RowBatch) -> tuple[Tensor, Tensor]:
        self._listening = True
        with torch.no_grad(), self.clock.disabled(), self.partial.only_below(self.first) as partial:
            self.model(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
                logits_to_keep=1,
            )
            hidden = partial.reached()
        self._listening = False
        if self._tapped is None:
            raise RuntimeError("the routing tap lies behind the first edited block")
        tapped, self._tapped = self._tapped, None
        return hidden, tapped

    def _listen(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self._listening:
            self._tapped = args[0]


def descend(
    parameters: Sequence[nn.Parameter],
    loss_parts: Callable[[], Sequence[Callable[[], Tensor]]],
    lr: float,
    steps: int,
    runtime: Runtime,
    learnt: Callable[[], bool] | None = None,
) -> list[float]:
    """Minimise a sum of loss parts with an Adam that starts afresh; the parts of all ranks belong to one sum.

    Args:
        parameters: What is trained; the same tensors, replicated, on every rank.
        loss_parts: Called once a step; gives the micro-batches' losses as functions, each already divided by the
            counts of the whole step, so that their sum over parts and ranks is the step's loss.
        lr: Learning rate.
        steps: Number of steps.
        runtime: Sums gradients over ranks.
        learnt: Asked after every ten steps whether to stop; must answer alike on every rank.

    Returns:
        The loss of every step.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr)
    losses = []
    for step in range(1, steps + 1):
        total = torch.zeros(1, device=runtime.device)
        optimizer.zero_grad(set_to_none=False)
        for part in loss_parts():
            loss = part()
            loss.backward()
            total += loss.detach()
        if runtime.world_size > 1:
            _sum_gradients(parameters, total, runtime)
        optimizer.step()
        losses.append(total)
        if learnt is not None and step % CHECK_EVERY == 0 and learnt():
            break
    for parameter in parameters:
        parameter.grad = None
    return torch.cat(losses).tolist() if losses else []


def _sum_gradients(parameters: Sequence[nn.Parameter], total: Tensor, runtime: Runtime) -> None:
    """One collective for all gradients and the loss."""
    pieces = [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in parameters]
    flat = runtime.sum(torch.cat([*pieces, total]))
    begin = 0
    for parameter in parameters:
        chunk = flat[begin : begin + parameter.numel()].view_as(parameter)
        begin += parameter.numel()
        if parameter.grad is None:
            parameter.grad = chunk.clone()
        else:
            parameter.grad.copy_(chunk)
    total.copy_(flat[begin:])
