"""Training the edited part of a decoder on a frozen prefix that is computed once for each batch of edits.

What runs before the first edited map does not change while a batch is learnt, so it is cached; every step runs the
upper blocks only, the last MLP and the vocabulary projection at answer positions only, and rows are packed, not
padded, unless one of them is longer than a window of the model. Rows are dealt to the ranks of the runtime; gradients
are summed over them. Knows nothing of routing rules.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import signature

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedModel

from elder.forward.packing import Packed, pack
from elder.forward.partial import PartialForward
from elder.forward.shortcuts import FirstBlock, LastBlock, Memo
from elder.mixture.attach import Bench
from elder.mixture.route import Plan
from elder.mixture.samples import IGNORED, Row, RowBatch, collate
from elder.models.attention import whole_attention_of
from elder.runtime import Runtime, keep_alike, rounds, share

CHECK_EVERY = 10  # steps after which it is checked whether a batch is learnt


@dataclass(frozen=True)
class Prepared:
    """One micro-batch of R rows, ready for training.

    Attributes:
        rows: The rows, padded; training itself uses `packed`.
        packed: The same rows, laid end to end on P lines of T tokens.
        hidden: (P, T, D) input of the first edited block.
        query: (R, Q) what the routing tap saw at each row's last prompt token.
        index: Which of all rows of the step these are, (R,) in the order given to `prepare`.
        memo: What the first edited block computes up to its edited map.
    """

    rows: RowBatch
    packed: Packed
    hidden: Tensor
    query: Tensor
    index: tuple[int, ...]
    memo: Memo


class SuffixTrainer:
    """Computes answer losses of training rows through the upper blocks of one model.

    Args:
        model: The clone whose blocks `partial` controls.
        partial: Lets a range of blocks run alone.
        layers: The edited blocks.
        tap: Module whose input, or output, routes a sequence; it comes before the first of them.
        bench: Switches the mixtures off, or imposes a plan on them.
        runtime: Where the model lives.
        pad: Id that fills rows up.
        micro_batch: Rows in one pass.
        entry: Shortcut through the first edited block.
        exit: Shortcut through the model's last block.
        depth: Number of blocks.
        tap_output: The output of `tap` routes, not its input.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        partial: PartialForward,
        layers: Sequence[int],
        tap: nn.Module,
        bench: Bench,
        runtime: Runtime,
        pad: int,
        micro_batch: int,
        entry: FirstBlock,
        exit: LastBlock,
        depth: int,
        tap_output: bool = False,
    ) -> None:
        self.model, self.partial, self.layers, self.entry, self.exit = model, partial, layers, entry, exit
        self.bench, self.runtime, self.pad, self.micro_batch = bench, runtime, pad, micro_batch
        alibi = getattr(model.config, "alibi", False)  # such a model reads positions off the padding mask
        self._packs = "position_ids" in signature(model.forward).parameters and not alibi
        self._attention = whole_attention_of(model)
        self._trims = exit.trims and self._packs and layers[0] < depth - 1
        self._trimmed = depth - 1 if self._trims else None
        self._tapped: Tensor | None = None
        self._listening = False
        if tap_output:
            tap.register_forward_hook(self._listen_after)
        else:
            tap.register_forward_pre_hook(self._listen)

    def prepare(self, rows: Sequence[Row]) -> list[Prepared]:
        """Run the frozen prefix for this rank's share of the rows (collective under sharding)."""
        mine = share(list(enumerate(rows)), self.runtime)
        real = len(mine)
        mine += [(0, rows[0])] * (rounds(len(rows), self.runtime) - real)
        device, config = self.runtime.device, self.model.config.get_text_config()
        prepared = []
        for begin in range(0, len(mine), self.micro_batch):
            part = mine[begin : begin + self.micro_batch]
            own = [row for _, row in part]
            packs = self._packs and self._attention.packs([len(row.prompt) + len(row.answer) for row in own])
            packed = pack(own, self.pad, config.hidden_size, device, self.model.dtype, not packs)
            memo: Memo = {}
            hidden, query = self._prefix(packed, memo)
            batch = collate(own, self.pad, device, max(0, real - begin))
            prepared.append(Prepared(batch, packed, hidden, query, tuple(i for i, _ in part), memo))
        return prepared

    def answer_losses(self, part: Prepared, gates: Tensor) -> Tensor:
        """Summed cross-entropy of each row's answer under gates (L, R, N), with gradients to the mixtures.

        Returns:
            (R,).
        """
        packed = part.packed
        with ExitStack() as only:
            only.enter_context(self.bench.imposing(Plan(self._spread(packed, gates))))
            only.enter_context(self.partial.only_from(self.layers[0], part.hidden))
            only.enter_context(self.entry.replaying(part.memo))
            only.enter_context(self.exit.keeping(packed.kept if self._trims else None, packed.places))
            logits = self._run(packed)
        labels = part.rows.labels
        loss = F.cross_entropy(
            logits.float().flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="none"
        ).view_as(labels)
        return loss.sum(dim=1)

    def _spread(self, packed: Packed, gates: Tensor) -> list[Tensor]:
        """The gates of rows as gates of tokens, in the shape in which each edited block sees the tokens."""
        kept = packed.row.flatten()[packed.kept][None]
        return [
            own[kept if block == self._trimmed else packed.row] for block, own in zip(self.layers, gates, strict=True)
        ]

    def _run(self, packed: Packed) -> Tensor:
        logits: Tensor = self.model(
            input_ids=packed.input_ids,
            attention_mask=packed.mask,
            position_ids=packed.position_ids,
            use_cache=False,
        ).logits
        return logits

    def _prefix(self, packed: Packed, memo: Memo) -> tuple[Tensor, Tensor]:
        self._listening = True
        first = self.layers[0]
        with ExitStack() as only:
            only.enter_context(torch.no_grad())
            only.enter_context(self.bench.disabled())
            only.enter_context(self.entry.recording(memo))
            only.enter_context(self.exit.keeping(None, packed.keys[:1, None]))
            partial = only.enter_context(self.partial.only_below(first + 1, capture=first))
            self._run(packed)
            hidden = partial.reached()
        self._listening = False
        if self._tapped is None:
            raise RuntimeError("the routing tap comes after the first edited block")
        tapped, self._tapped = self._tapped, None
        return hidden, tapped.flatten(0, 1)[packed.keys]

    def _listen(self, _: nn.Module, args: tuple[Tensor, ...]) -> None:
        if self._listening:
            self._tapped = args[0]

    def _listen_after(self, _: nn.Module, __: tuple[Tensor, ...], output: Tensor) -> None:
        if self._listening:
            self._tapped = output


def descend(
    parameters: Sequence[nn.Parameter],
    loss_parts: Callable[[], Sequence[Callable[[], Tensor]]],
    lr: float,
    steps: int,
    runtime: Runtime,
    learnt: Callable[[], bool] | None = None,
    decay: tuple[int, float] | None = None,
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
        decay: (steps, factor): the learning rate is multiplied by the factor after so many steps, again and again.

    Returns:
        The loss of every step.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr)
    losses = []
    for step in range(1, steps + 1):
        if decay is not None:
            optimizer.param_groups[0]["lr"] = lr * decay[1] ** ((step - 1) // decay[0])
        total = torch.zeros(1, device=runtime.device)
        optimizer.zero_grad(set_to_none=False)
        for part in loss_parts():
            with torch.enable_grad():  # whatever the caller has set
                loss = part()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        if runtime.world_size > 1:
            _sum_gradients(parameters, total, runtime)
        optimizer.step()
        losses.append(total)
        if learnt is not None and step % CHECK_EVERY == 0 and learnt():
            break
    for parameter in parameters:
        parameter.grad = None
    keep_alike(parameters, runtime)  # Adam's steps are each rank's own, rounded as its processor does
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
